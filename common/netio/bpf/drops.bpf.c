// Counts the packets that the kernel drops in one network namespace, by its own reasons.
//
//   kfree_skb_reason() ──▶ skb:kfree_skb ──▶ whose? ──▶ what, where, on which device, by which calls ──▶ counts
//
// Nothing is touched: every byte is read by bpf_probe_read_kernel, which fails where there is none. The structures
// are only what is read of them; where that lies is filled in for the running kernel when the program is loaded
// (CO-RE).

#include <linux/bpf.h>
#include <stdbool.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

// Helpers by their numbers in linux/bpf.h, so that no header of another project is needed.
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*probe_read)(void *to, __u32 length, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*call_stack)(void *context, void *to, __u32 length, __u64 flags) = (void *)BPF_FUNC_get_stack;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct dst_entry {
	struct net_device *dev;
};

struct sk_filter;

struct sock_common {
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_filter *sk_filter;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	int skb_iif;
	__u16 protocol;
	__u16 network_header;
	unsigned int tail;
	unsigned char *head, *data;
};

#pragma clang attribute pop

// Reads a field of a kernel structure; nothing is read (zero) where there is none.
#define FIELD(base, field)                                                        \
	({                                                                        \
		__typeof__((base)->field) value_ = 0;                             \
		probe_read(&value_, sizeof value_, &(base)->field);               \
		value_;                                                           \
	})

enum { CALLERS = 4, FRAMES = 16, KEYS = 4096, KEYS_WITHOUT_PORTS = 1024 };
enum { SYN_ALONE = 1, TO_MANY = 2, SOCKET_HAS_FILTER = 4 };

struct key {
	__u64 location;         // in the function that dropped it
	__u64 callers[CALLERS]; // in those that had called it, the nearest first
	__u32 reason;
	__u32 interface;
	__u16 ethertype;
	__u16 source, destination; // ports; an ICMP message's type and code
	__u8 protocol;
	__u8 flags;
};

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[KEYS];
	struct key *key;
	__u64 *value;
} drops SECTION(".maps");

// Without ports: what `drops` has no room for.
struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[KEYS_WITHOUT_PORTS];
	struct key *key;
	__u64 *value;
} more SECTION(".maps");

enum { NAMESPACE, UNCOUNTED, SETTINGS };

// The namespace's inode; how many packets could not be counted.
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[SETTINGS];
	__u32 *key;
	__u64 *value;
} settings SECTION(".maps");

enum { IPV4 = 0x0800, IPV6 = 0x86dd };
enum { HOP_BY_HOP = 0, ICMP = 1, TCP = 6, UDP = 17, ROUTING = 43, FRAGMENT = 44, ICMP6 = 58, OPTIONS = 60 };
enum { EXTENSION_HEADERS = 4 };
enum { SYN = 2, ACK = 16 };

INLINE __u16 swap16(__u16 v) { return __builtin_bswap16(v); }

// That which it is to leave by, where it is not yet at any. The reference's lowest bit tells how it is counted.
INLINE struct net_device *way_of(struct sk_buff *skb)
{
	struct dst_entry *way = (void *)(FIELD(skb, _skb_refdst) & ~1UL);
	return way ? FIELD(way, dev) : 0;
}

// The socket that receives comes first: in its queues the place of `dev` has other uses.
INLINE __u32 namespace_of(struct sk_buff *skb, struct sock *receiver, struct net_device *device)
{
	struct net *net = 0;
	if (receiver)
		net = FIELD(receiver, __sk_common.skc_net.net);
	else if (device)
		net = FIELD(device, nd_net.net);
	if (!net) {
		struct sock *sender = FIELD(skb, sk);
		net = sender ? FIELD(sender, __sk_common.skc_net.net) : 0;
	}
	return net ? FIELD(net, ns.inum) : 0;
}

// What is read of a packet: bytes from its IP header to the end of what lies in one piece.
struct packet {
	const __u8 *at;
	__u32 left;
};

INLINE bool read(const struct packet *packet, __u32 at, void *to, __u32 length)
{
	return at + length <= packet->left && !probe_read(to, length, packet->at + at);
}

INLINE bool find_ip(struct sk_buff *skb, struct packet *packet)
{
	const __u8 *head = FIELD(skb, head), *data = FIELD(skb, data);
	__u32 tail = FIELD(skb, tail), at = FIELD(skb, network_header);
	if (!head || data < head)
		return false;
	// Not set yet, on the way in: the data begin there then.
	if (!at || at >= tail)
		at = data - head;
	if (at >= tail)
		return false;
	packet->at = head + at;
	packet->left = tail - at;
	return true;
}

INLINE void read_transport(const struct packet *packet, __u32 at, struct key *key)
{
	__u8 tcp[14] = {};
	__u16 ports[2] = {};
	if (key->protocol == ICMP || key->protocol == ICMP6) {
		__u8 kind[2] = {};
		if (read(packet, at, kind, sizeof kind)) {
			key->source = kind[0];
			key->destination = kind[1];
		}
		return;
	}
	if (key->protocol != TCP && key->protocol != UDP)
		return;
	if (read(packet, at, ports, sizeof ports)) {
		key->source = swap16(ports[0]);
		key->destination = swap16(ports[1]);
	}
	if (key->protocol == TCP && read(packet, at, tcp, sizeof tcp) && (tcp[13] & (SYN | ACK)) == SYN)
		key->flags |= SYN_ALONE;
}

INLINE void read_ipv4(const struct packet *packet, struct key *key)
{
	__u8 ip[20] = {};
	if (!read(packet, 0, ip, sizeof ip) || ip[0] >> 4 != 4)
		return;
	key->protocol = ip[9];
	// Class D, or everybody on the link.
	if (ip[16] >> 4 == 14 || (ip[16] & ip[17] & ip[18] & ip[19]) == 255)
		key->flags |= TO_MANY;
	bool is_later_fragment = (ip[6] & 0x1f) | ip[7];
	if (!is_later_fragment)
		read_transport(packet, (ip[0] & 15) * 4, key);
}

INLINE void read_ipv6(const struct packet *packet, struct key *key)
{
	__u8 ip[40] = {}, extension[8] = {};
	if (!read(packet, 0, ip, sizeof ip) || ip[0] >> 4 != 6)
		return;
	__u8 next = ip[6];
	__u32 at = sizeof ip;
	if (ip[24] == 255)
		key->flags |= TO_MANY;
#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if (next != HOP_BY_HOP && next != ROUTING && next != OPTIONS && next != FRAGMENT)
			break;
		if (!read(packet, at, extension, sizeof extension))
			return;
		bool is_later_fragment = next == FRAGMENT && (extension[2] | extension[3] >> 3);
		at += next == FRAGMENT ? 8 : 8 * (extension[1] + 1);
		next = extension[0];
		if (is_later_fragment) {
			key->protocol = next;
			return;
		}
	}
	key->protocol = next;
	read_transport(packet, at, key);
}

INLINE void read_packet(struct sk_buff *skb, struct key *key)
{
	struct packet packet = {};
	key->ethertype = swap16(FIELD(skb, protocol));
	if (!find_ip(skb, &packet))
		return;
	if (key->ethertype == IPV4)
		read_ipv4(&packet, key);
	else if (key->ethertype == IPV6)
		read_ipv6(&packet, key);
}

// Who had called what dropped it: that tells at which of its hooks netfilter was.
INLINE void read_callers(void *context, struct key *key)
{
	__u64 frames[FRAMES] = {};
	int next = -1;
	if (call_stack(context, frames, sizeof frames, 0) <= 0)
		return;
#pragma unroll
	for (int i = 0; i < FRAMES; i++) {
		if (next == 0)
			key->callers[0] = frames[i];
		else if (next == 1)
			key->callers[1] = frames[i];
		else if (next == 2)
			key->callers[2] = frames[i];
		else if (next == 3)
			key->callers[3] = frames[i];
		if (next >= 0)
			next++;
		else if (frames[i] == key->location)
			next = 0;
	}
}

INLINE bool add_one(void *map, const struct key *key)
{
	const __u64 one = 1;
	__u64 *count = map_lookup(map, key);
	if (!count) {
		if (!map_update(map, key, &one, BPF_NOEXIST))
			return true;
		// Another processor may just have put it there.
		count = map_lookup(map, key);
		if (!count)
			return false;
	}
	__sync_fetch_and_add(count, 1);
	return true;
}

INLINE void note(void *context, struct sk_buff *skb, __u64 location, __u32 reason, struct sock *receiver)
{
	const __u32 namespace_at = NAMESPACE, uncounted_at = UNCOUNTED;
	__u64 *ours = map_lookup(&settings, &namespace_at), *uncounted = map_lookup(&settings, &uncounted_at);
	struct net_device *device = FIELD(skb, dev);
	__u32 arrived_at = FIELD(skb, skb_iif);
	// TCP has taken the device out of what it has received, and the way in is loopback's.
	if (!device && !arrived_at)
		device = way_of(skb);
	// 0: not dropped.
	if (!ours || !uncounted || !reason || *ours != namespace_of(skb, receiver, device))
		return;
	struct key key = { .location = location, .reason = reason };
	key.interface = device ? FIELD(device, ifindex) : arrived_at;
	if (receiver && FIELD(receiver, sk_filter))
		key.flags |= SOCKET_HAS_FILTER;
	read_packet(skb, &key);
	read_callers(context, &key);
	if (add_one(&drops, &key))
		return;
	key.source = key.destination = 0;
	if (!add_one(&more, &key))
		__sync_fetch_and_add(uncounted, 1);
}

// Linux 6.11 and newer.
SECTION("raw_tp/kfree_skb") int dropped(struct bpf_raw_tracepoint_args *context)
{
	note(context, (void *)context->args[0], context->args[1], context->args[2], (void *)context->args[3]);
	return 0;
}

// Linux 5.17 to 6.10: without the socket that was to receive it.
SECTION("raw_tp/kfree_skb") int dropped_before_6_11(struct bpf_raw_tracepoint_args *context)
{
	note(context, (void *)context->args[0], context->args[1], context->args[2], 0);
	return 0;
}

char terms[] SECTION("license") = "Dual MIT/GPL";
