// Who has a packet: the kernel or the daemon.
//
//   ingress ──▶ tc: `forward` ─── a handed flow's ──▶ rewrite, mark ──▶ route, neighbour ──▶ egress
//                   │    │                                  └─▶ kernel forwarding, where there is no plain way
//                   │    └─ a service's ──▶ a copy to the outlet, where the daemon captures it,
//                   │                       and the original to the guard, which drops what is claimed
//                   └─ another's ──▶ kernel forwarding
//
// What each segment of a handed flow becomes is said by rtt0_core::offload::Offloaded::apply; a test holds
// this program against it, byte by byte. Here is only what comes often: any other segment (IP options or
// extension headers, fragments, unusual TCP options, SYN, RST, URG, an expiring TTL, more than the smallest MTU)
// is left to the daemon. While no daemon runs, SYN and RST are judged here too. That there is none shows in that
// there is no outlet: the device goes with its process, however that ends.

#include <linux/bpf.h>
#include <stdbool.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

// Helpers by their numbers in linux/bpf.h, so that no header of another project is needed.
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*load_bytes)(const struct __sk_buff *, __u32 at, void *to, __u32 length) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*pull_data)(struct __sk_buff *, __u32 length) = (void *)BPF_FUNC_skb_pull_data;
static long (*l4_csum_replace)(struct __sk_buff *, __u32 at, __u64 from, __u64 to, __u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;
static __u64 (*ktime)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u64 (*ktime_coarse)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*fib_lookup)(struct __sk_buff *, struct bpf_fib_lookup *, __u32 length, __u32 flags) =
	(void *)BPF_FUNC_fib_lookup;
static long (*redirect_neigh)(__u32 device, struct bpf_redir_neigh *, __u32 length, __u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*tail_call)(struct __sk_buff *, void *map, __u32 index) = (void *)BPF_FUNC_tail_call;
static long (*clone_redirect)(struct __sk_buff *, __u32 device, __u64 flags) = (void *)BPF_FUNC_clone_redirect;

// One look-up serves both directions: see rtt0_core::offload::layout.
struct key {
	__u32 lower[4], higher[4];
	__u16 lower_port, higher_port;
};

// How far an end has come: rtt0_core's translated::End.
struct end {
	__u32 next, acknowledged, edge;
	__u8 scale;
	// What it sends is the daemon's still: see `is_ours`. The worker is the same for both ends.
	__u8 waits, worker, zero;
};

enum { WORKERS = 64, CLOSING = 256 };

// The way that the routing table had for a direction's last segment: good for those of the same kind until the tick is
// over, so that a changed route counts from then on. 20 bytes, so that a flow is no larger than 160: see `remember`.
struct route {
	__u32 tick;     // 0: none
	__u32 device;
	__u32 next[2];  // IPv4: the next hop, 0; IPv6: the latter half of one that is link-local, or 0 for the destination
	__u16 longest;  // bytes of an IP packet that may go there
	__u8 tos;
	__u8 from;      // the low byte of the index of the interface it came by
};

struct flow {
	__u32 delta, tsval_offset, client_isn, real_isn;
	__u8 flags;
	__s8 client_shift, server_shift;
	__u8 stage;
	struct end client, server;
	__u32 syn_ack_tsval;
	__u64 last_used;
	struct { __u64 packets, bytes; } to_server, to_client;
	// While `waits`: when the flow was handed over, and when the ends' last packets were in the daemon's queue.
	__u64 handed, client_captured, server_captured;
	struct route route_to_server, route_to_client;
};

enum { CLIENT_IS_LOWER = 1, TRANSLATED = 2, TIMESTAMPS = 4, ERASE_SACK = 8, HIDE_ECHO = 16, OPENING = 32 };
enum { CLIENT_FIN = 1, SERVER_FIN = 2, CLIENT_RESET = 4, SERVER_RESET = 8 };

// A served destination; an IPv4 one is IPv4-mapped. Words in network byte order.
struct rule {
	__u32 prefix[4], mask[4];
	__u16 first_port, last_port;
};

struct settings {
	__u32 rules;       // how many
	__u32 largest;     // bytes of an IP packet that every interface carries
	__u32 mark;        // of what is forwarded here
	__u32 let_through; // 1: unsigned SYNs, 2: unsigned SYN-ACKs too
	__u32 signature;   // what a signed one's options begin with
	__u32 longest;     // ns after which the daemon is not waited for any more
	__u32 outlet;      // the device whose outgoing packets the daemon captures
	__u32 workers;     // of the daemon
	__u32 begins;      // which handshakes may be begun here
	__u32 mss_v4, mss_v6; // the largest that may be promised, in bytes
	__u32 large_upload; // bytes beyond which an upload may change what is promised
};

enum { ANSWERS = 1, ACCEPTS = 2 };  // SYNs; offers, by handshakes with servers
enum { FORWARDED_PACKETS, FORWARDED_BYTES, LEFT_TO_DAEMON, FORGOTTEN, COUNTERS };

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[1 << 20];
	int (*map_flags)[BPF_F_NO_PREALLOC];
	struct key *key;
	struct flow *value;
} flows SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct settings *value;
} settings SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[64];
	__u32 *key;
	struct rule *value;
} rules SECTION(".maps");

// For each worker: what its capture had taken in until then, the daemon has emitted.
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[WORKERS];
	int (*map_flags)[BPF_F_MMAPABLE];
	__u32 *key;
	__u64 *value;
} served SECTION(".maps");

// For each worker, a queue of flows that both ends have closed: it takes them back a little later. `turn` of a place is the
// number of those that were queued until it was filled.
struct closing {
	__u64 queued, taken;
	struct {
		struct key key;
		__u32 client_is_lower;
		__u32 client_end;  // behind the last byte that it has sent
		__u32 zero;
		__u64 turn;
	} flows[CLOSING];
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[WORKERS];
	int (*map_flags)[BPF_F_MMAPABLE];
	__u32 *key;
	struct closing *value;
} closing SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	int (*max_entries)[COUNTERS];
	__u32 *key;
	__u64 *value;
} counters SECTION(".maps");

// `answer` or `accept`, if the kernel has taken it.
struct {
	int (*type)[BPF_MAP_TYPE_PROG_ARRAY];
	int (*max_entries)[1];
	int (*key_size)[4];
	int (*value_size)[4];
} beginners SECTION(".maps");

// For each worker: until when handshakes of its flows may be begun, ns.
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[WORKERS];
	int (*map_flags)[BPF_F_MMAPABLE];
	__u32 *key;
	__u64 *value;
} allowed SECTION(".maps");

// The ends of which a SYN was left to the daemon: it may know of a connection. Those of the latest.
struct {
	int (*type)[BPF_MAP_TYPE_LRU_HASH];
	int (*max_entries)[1 << 16];
	struct key *key;
	__u32 *value;
} left SECTION(".maps");

enum { ETHERNET = 14, IPV4 = 20, IPV6 = 40, TCP = 20 };
enum { HOP_BY_HOP = 0, ICMP = 1, PROTOCOL_TCP = 6, ROUTING = 43, ICMP6 = 58, DESTINATION = 60 };
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };
enum { INTERNET = 2, INTERNET6 = 10 };
enum { FIRST_FLIGHT = 1 << 20, LARGEST_FLIGHT = 64 << 20, PROMISED_WINDOW = 1 << 16 };

struct packet {
	__u32 source[4], destination[4];
	__u32 length;    // of the IP packet
	__u32 header;    // length of the TCP header
	__u32 payload;
	bool is_v4;
};

INLINE __u16 swap16(__u16 v) { return __builtin_bswap16(v); }
INLINE __u32 swap32(__u32 v) { return __builtin_bswap32(v); }
INLINE __u16 raw16_at(const __u8 *p) { return *(const __u16 *)p; }
INLINE __u32 raw32_at(const __u8 *p) { return *(const __u32 *)p; }
INLINE __u16 u16_at(const __u8 *p) { return swap16(raw16_at(p)); }
INLINE __u32 u32_at(const __u8 *p) { return swap32(raw32_at(p)); }

// Where the TCP header begins, from the frame's first byte.
INLINE __u32 tcp_at(const struct packet *packet) { return ETHERNET + (packet->is_v4 ? IPV4 : IPV6); }

INLINE void count(__u32 which, __u64 amount)
{
	__u64 *counter = map_lookup(&counters, &which);
	if (counter)
		*counter += amount;
}

// Reads an IP header: a TCP segment without anything unusual up to there.
INLINE bool read_ip(const __u8 *ip, struct packet *packet)
{
	if (packet->is_v4) {
		// More fragments, or a later one; an expiring TTL.
		if (ip[0] != 0x45 || ip[9] != PROTOCOL_TCP || u16_at(ip + 6) & 0x3fff || ip[8] <= 1)
			return false;
		packet->length = u16_at(ip + 2);
		packet->source[2] = packet->destination[2] = swap32(0xffff);
		packet->source[3] = raw32_at(ip + 12);
		packet->destination[3] = raw32_at(ip + 16);
		return true;
	}
	if (ip[0] >> 4 != 6 || ip[6] != PROTOCOL_TCP || ip[7] <= 1)
		return false;
	packet->length = IPV6 + u16_at(ip + 4);
#pragma unroll
	for (int i = 0; i < 4; i++) {
		packet->source[i] = raw32_at(ip + 8 + 4 * i);
		packet->destination[i] = raw32_at(ip + 24 + 4 * i);
	}
	return true;
}

// Reads the lengths from the fixed part of a TCP header.
INLINE bool read_tcp(const struct __sk_buff *skb, const __u8 *tcp, struct packet *packet)
{
	packet->header = (tcp[12] >> 4) * 4;
	__u32 headers = tcp_at(packet) - ETHERNET + packet->header;
	if (packet->header < TCP || packet->length < headers || packet->length > skb->len - ETHERNET)
		return false;
	packet->payload = packet->length - headers;
	return true;
}

INLINE bool is_ip(const struct __sk_buff *skb, struct packet *packet)
{
	packet->is_v4 = skb->protocol == swap16(0x0800);
	return packet->is_v4 || skb->protocol == swap16(0x86dd);
}

// Where timestamps and SACK blocks lie in the options, in the layout that all current systems send:
// NOP NOP timestamps, NOP NOP SACK, both, or nothing.
struct layout {
	bool timestamps;
	__u32 edges;  // of SACK blocks
};

enum { TIMESTAMPS_LENGTH = 12, SACK_BEGIN = 4 };

// Reads `length` bytes of options. `options` are all that can be, or as much as there is before `end`.
INLINE bool read_options(const __u8 *options, const __u8 *end, __u32 length, struct layout *layout)
{
	const __u8 *sack = options;
	if (length == 0)
		return true;
	if (length < TIMESTAMPS_LENGTH || options + TIMESTAMPS_LENGTH > end)
		return false;
	if (u32_at(options) == 0x0101080a) {
		layout->timestamps = true;
		length -= TIMESTAMPS_LENGTH;
		if (length == 0)
			return true;
		sack += TIMESTAMPS_LENGTH;
	}
	if (length < SACK_BEGIN + 8 || (length - SACK_BEGIN) % 8 || sack + SACK_BEGIN > end)
		return false;
	if (sack[0] != 1 || sack[1] != 1 || sack[2] != 5 || sack[3] != length - 2)
		return false;
	layout->edges = (length - SACK_BEGIN) / 4;
	return true;
}

// Tells whether the source is the lower end.
INLINE bool make_key(const struct packet *packet, const __u8 *tcp, struct key *key)
{
	__u16 source = raw16_at(tcp), destination = raw16_at(tcp + 2);
	bool lower = swap16(source) < swap16(destination);
#pragma unroll
	for (int i = 3; i >= 0; i--) {
		__u32 a = swap32(packet->source[i]), b = swap32(packet->destination[i]);
		if (a != b)
			lower = a < b;
	}
	__builtin_memcpy(key->lower, lower ? packet->source : packet->destination, 16);
	__builtin_memcpy(key->higher, lower ? packet->destination : packet->source, 16);
	key->lower_port = lower ? source : destination;
	key->higher_port = lower ? destination : source;
	return lower;
}

// While nobody has confirmed a handshake that the client believes in: whether a segment from the server is of the
// numbers that the client was promised. `edge` is the promised ISN then.
INLINE bool is_promised(const struct flow *flow, const __u8 *tcp)
{
	return u32_at(tcp + 4) - flow->client.edge - 1 <= FIRST_FLIGHT &&
	       u32_at(tcp + 8) - flow->client_isn - 1 <= FIRST_FLIGHT;
}

// Offloaded::closes.
INLINE bool closes(const struct flow *flow, const __u8 *tcp, bool from_client)
{
	if (!(tcp[13] & FIN))
		return false;
	if (!(flow->flags & TRANSLATED))
		return from_client;
	return flow->stage & (from_client ? SERVER_FIN : CLIENT_FIN);
}

// Offloaded::is_for_engine.
INLINE bool is_for_daemon(const struct flow *flow, const __u8 *tcp, bool from_client)
{
	if ((tcp[13] & (SYN | RST | ACK | URG)) != ACK)
		return true;
	if (!(flow->flags & OPENING))
		return false;
	if (from_client)
		return tcp[13] & FIN || (flow->flags & TRANSLATED && u32_at(tcp + 8) != flow->real_isn + flow->delta + 1);
	return flow->flags & TRANSLATED || !is_promised(flow, tcp);
}

// A super-packet leaves in segments of gso_size.
INLINE __u32 length_on_wire(const struct __sk_buff *skb, const struct packet *packet)
{
	return skb->gso_size ? tcp_at(packet) - ETHERNET + packet->header + skb->gso_size : packet->length;
}

INLINE bool fits(const struct __sk_buff *skb, const struct packet *packet, const struct settings *s)
{
	return length_on_wire(skb, packet) <= s->largest;
}

// Translated::End::accepts: RFC 9293 §3.10.7.4, RFC 5961.
INLINE bool accepts(const struct end *end, __u32 sequence, __u32 length, __u32 acknowledgement)
{
	__s64 first = (__s32)(sequence - end->acknowledged);
	__s64 open = (__s32)(end->edge - end->acknowledged);
	if (open < 0)
		open = 0;
	return first + length >= 0 && first <= open + PROMISED_WINDOW && end->next - acknowledgement <= LARGEST_FLIGHT;
}

INLINE bool is_before(__u32 a, __u32 b) { return (__s32)(a - b) < 0; }

INLINE void advance(__u32 *from, __u32 to)
{
	if (is_before(*from, to))
		*from = to;
}

// Has no SYN be answered here until the workers have looked at what they are told.
INLINE void hold_answers(const struct settings *s)
{
	for (__u32 i = 0; i < WORKERS && i < s->workers; i++) {
		__u32 worker = i;
		__u64 *until = map_lookup(&allowed, &worker);
		if (until)
			*until = 0;
	}
}

// Takes the next place of a worker's queue, if one is free.
INLINE bool claim(__u64 *queued, const __u64 *taken, __u64 *turn)
{
	// Half of it is for processors that look at the same time.
	if (*queued - *(volatile const __u64 *)taken >= CLOSING / 2)
		return false;
	*turn = __sync_fetch_and_add(queued, 1);
	return true;
}

// Tells the daemon's worker that a flow is closed; whether there was room for that.
INLINE bool tell(const struct flow *flow, const struct key *key, const __u8 *tcp, __u32 payload, bool from_client,
		 const struct settings *s)
{
	bool has_fin = flow->flags & TRANSLATED && flow->stage & CLIENT_FIN;
	__u32 client_end = flow->client.next - has_fin;
	if (from_client)
		advance(&client_end, u32_at(tcp + 4) + payload);
	__u32 worker = flow->client.worker;
	struct closing *queue = map_lookup(&closing, &worker);
	__u64 turn;
	if (!queue || !claim(&queue->queued, &queue->taken, &turn))
		return false;
	__u32 place = turn % CLOSING;
	queue->flows[place].key = *key;
	queue->flows[place].client_is_lower = flow->flags & CLIENT_IS_LOWER;
	queue->flows[place].client_end = client_end;
	__sync_lock_test_and_set(&queue->flows[place].turn, turn + 1);
	if (s->begins == ANSWERS && client_end - flow->client_isn - 1 > s->large_upload)
		hold_answers(s);
	return true;
}

// Translated::End::sends, with the numbers that the server's space knows.
INLINE void sends(struct flow *flow, struct end *end, const struct end *peer, __u8 fin, __u8 reset,
		  const __u8 *tcp, __u32 acknowledgement, __u16 window, __u32 payload)
{
	__u32 sequence = u32_at(tcp + 4);
	if (tcp[13] & RST) {
		if (sequence == end->next || sequence == peer->acknowledged)
			flow->stage |= reset;
		return;
	}
	__u32 length = payload + !!(tcp[13] & FIN);
	if (!(tcp[13] & ACK) || !accepts(peer, sequence, length, acknowledgement))
		return;
	__u32 next = end->next, last = sequence + payload, behind = sequence + length;
	__u8 stage = flow->stage;
	if (stage & fin && payload && !is_before(last, next))
		stage &= ~fin;
	if (tcp[13] & FIN && !is_before(behind, next))
		stage |= fin;
	if (is_before(next, behind))
		stage &= ~reset;
	else if (flow->stage & fin && !(stage & fin))
		stage &= ~reset;
	flow->stage = stage;
	advance(&end->next, behind);
	advance(&end->acknowledged, acknowledgement);
	__u32 open = is_before(sequence, next) ? 0 : (__u32)window << (end->scale & 31);
	advance(&end->edge, acknowledgement + open);
}

// End::reaches, of the client of a flow that is only watched: first it acknowledges the one byte that proves that it
// has been answered.
INLINE void reaches(struct flow *flow, const __u8 *tcp, __u32 payload)
{
	struct end *client = &flow->client;
	if (tcp[13] & FIN)
		flow->stage |= CLIENT_FIN;
	advance(&client->next, u32_at(tcp + 4) + payload);
	__u32 acknowledgement = u32_at(tcp + 8);
	__u32 most = client->acknowledged == client->edge ? 1 : FIRST_FLIGHT;
	if (tcp[13] & ACK && acknowledgement - client->acknowledged <= most)
		client->acknowledged = acknowledgement;
}

// Replaces a number of the header and adds the difference to `sum`, which becomes the checksum's.
INLINE void put16(__u8 *p, __u16 raw, __u64 *sum)
{
	*sum += (__u16)~raw16_at(p);
	*sum += raw;
	*(__u16 *)p = raw;
}

INLINE void put32(__u8 *p, __u32 raw, __u64 *sum)
{
	*sum += (__u32)~raw32_at(p);
	*sum += raw;
	*(__u32 *)p = raw;
}

// Adds what the others have summed up. The packet may have moved then.
INLINE void add_to_checksum(struct __sk_buff *skb, const struct packet *packet, __u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	l4_csum_replace(skb, tcp_at(packet) + 16, 0, (__u32)(sum + (sum >> 32)), 0);
}

INLINE void add(__u8 *p, __u32 amount, __u64 *sum) { put32(p, swap32(u32_at(p) + amount), sum); }

// RFC 7323 §2.2.
INLINE __u16 shifted(__u32 window, __s8 left)
{
	window = left > 0 ? window << (left & 31) : window >> (-left & 31);
	return window > 0xffff ? 0xffff : window;
}

INLINE void shift_window(__u8 *tcp, __s8 left, __u64 *sum)
{
	if (left)
		put16(tcp + 14, swap16(shifted(u16_at(tcp + 14), left)), sum);
}

// Offloaded::note.
INLINE bool note(struct flow *flow, const __u8 *tcp, __u32 payload, bool from_client)
{
	__u32 acknowledgement = u32_at(tcp + 8);
	__u16 window = u16_at(tcp + 14);
	if (!(flow->flags & TRANSLATED)) {
		if (!from_client)
			flow->flags &= ~OPENING;
		else if (!(tcp[13] & RST))
			reaches(flow, tcp, payload);
		return true;
	}
	if (!from_client) {
		sends(flow, &flow->server, &flow->client, SERVER_FIN, SERVER_RESET, tcp, acknowledgement, window, payload);
		return !(tcp[13] & FIN) || flow->stage & SERVER_FIN;
	}
	if (flow->flags & OPENING)
		flow->flags &= ~OPENING;
	if (tcp[13] & ACK)
		acknowledgement -= flow->delta;
	window = shifted(window, flow->client_shift);
	sends(flow, &flow->client, &flow->server, CLIENT_FIN, CLIENT_RESET, tcp, acknowledgement, window, payload);
	return !(tcp[13] & FIN) || flow->stage & CLIENT_FIN;
}

// Translation::client_to_server.
INLINE void to_server(struct flow *flow, __u8 *tcp, const __u8 *end, const struct layout *layout, __u64 *sum)
{
	bool hide = false;
	if (tcp[13] & ACK) {
		__u32 real = u32_at(tcp + 8) - flow->delta;
		put32(tcp + 8, swap32(real), sum);
		__s32 beyond = real - flow->real_isn - 1;
		if (beyond > 0)
			flow->flags &= ~HIDE_ECHO;
		hide = flow->flags & HIDE_ECHO && beyond == 0;
	}
	shift_window(tcp, flow->client_shift, sum);
	__u8 *sack = tcp + TCP;
	if (layout->timestamps) {
		__u8 *echo = tcp + TCP + 8;
		if (echo + 4 > end)
			return;
		__u32 real = u32_at(echo) - flow->tsval_offset;
		if (flow->flags & TIMESTAMPS)
			put32(echo, !raw32_at(echo) || (hide && real == flow->syn_ack_tsval) ? 0 : swap32(real), sum);
		sack += TIMESTAMPS_LENGTH;
	}
	if (!layout->edges || sack + SACK_BEGIN > end)
		return;
	if (flow->flags & ERASE_SACK)
		put16(sack + 2, 0x0101, sum);
	sack += SACK_BEGIN;
#pragma unroll
	for (__u32 i = 0; i < 8; i++) {
		if (i >= layout->edges || sack + 4 > end)
			break;
		put32(sack, flow->flags & ERASE_SACK ? 0x01010101 : swap32(u32_at(sack) - flow->delta), sum);
		sack += 4;
	}
}

// Translation::server_to_client.
INLINE void to_client(const struct flow *flow, __u8 *tcp, const __u8 *end, const struct layout *layout,
		      __u64 *sum)
{
	add(tcp + 4, flow->delta, sum);
	shift_window(tcp, flow->server_shift, sum);
	if (layout->timestamps && flow->flags & TIMESTAMPS && tcp + TCP + 8 <= end)
		add(tcp + TCP + 4, flow->tsval_offset, sum);
}

enum { NEXT = -1, NO_DEVICE = 22 };

enum outlook { PLAIN_WAY, NO_PLAIN_WAY, TOO_LARGE };
enum { TICK = 20 };  // 2^20 ns: a tick of 1,000 Hz; where it is longer the coarse clock steps over several of these

INLINE __u8 tos_of(const struct packet *packet, const __u8 *ip)
{
	return packet->is_v4 ? ip[1] : u16_at(ip) >> 4;
}

INLINE bool recall(const struct route *known, __u32 tick, const struct __sk_buff *skb, const struct packet *packet,
		   const __u8 *ip, struct bpf_fib_lookup *way)
{
	if (known->tick != tick || known->tos != tos_of(packet, ip) || known->from != (__u8)skb->ifindex ||
	    length_on_wire(skb, packet) > known->longest)
		return false;
	way->ifindex = known->device;
	if (packet->is_v4) {
		way->family = INTERNET;
		way->ipv4_dst = known->next[0];
		return true;
	}
	way->family = INTERNET6;
	if (known->next[0] | known->next[1]) {
		way->ipv6_dst[0] = swap32(0xfe800000);
		way->ipv6_dst[2] = known->next[0];
		way->ipv6_dst[3] = known->next[1];
	} else {
		__builtin_memcpy(way->ipv6_dst, packet->destination, 16);
	}
	return true;
}

// Another next hop than these is asked for each time: it would take 16 bytes more in each flow, for both directions, and
// the next larger size of the kernel's elements is 512 bytes.
INLINE void remember(struct route *known, __u32 tick, const struct __sk_buff *skb, const struct packet *packet,
		     const __u8 *ip, const struct bpf_fib_lookup *way)
{
	__u32 next[2] = {};
	if (packet->is_v4) {
		if (way->family != INTERNET)
			return;
		next[0] = way->ipv4_dst;
	} else if (way->ipv6_dst[0] == swap32(0xfe800000) && !way->ipv6_dst[1] && way->ipv6_dst[2] | way->ipv6_dst[3]) {
		next[0] = way->ipv6_dst[2];
		next[1] = way->ipv6_dst[3];
	} else if ((way->ipv6_dst[0] ^ packet->destination[0]) | (way->ipv6_dst[1] ^ packet->destination[1]) |
		   (way->ipv6_dst[2] ^ packet->destination[2]) | (way->ipv6_dst[3] ^ packet->destination[3])) {
		return;
	}
	known->device = way->ifindex;
	known->next[0] = next[0];
	known->next[1] = next[1];
	// The way's MTU, or where the kernel does not tell it (before 5.13) the length that was asked for.
	known->longest = way->mtu_result;
	known->tos = tos_of(packet, ip);
	known->from = skb->ifindex;
	// Last, for another processor that looks meanwhile.
	__sync_lock_test_and_set(&known->tick, tick);
}

// Finds the way that the routing table has for a segment. Where that is not all there is to it (no route, another kind
// of route, forwarding switched off) kernel forwarding goes on with the segment.
INLINE enum outlook look_up(struct __sk_buff *skb, const struct packet *packet, const __u8 *ip, const __u8 *tcp,
			    struct bpf_fib_lookup *way, __u32 flags)
{
	way->family = packet->is_v4 ? INTERNET : INTERNET6;
	way->l4_protocol = PROTOCOL_TCP;
	way->sport = raw16_at(tcp);
	way->dport = raw16_at(tcp + 2);
	way->tot_len = length_on_wire(skb, packet);
	way->ifindex = skb->ifindex;
	if (packet->is_v4) {
		way->tos = ip[1];
		way->ipv4_src = packet->source[3];
		way->ipv4_dst = packet->destination[3];
	} else {
		way->flowinfo = raw32_at(ip) & swap32(0x0fffffff);
		__builtin_memcpy(way->ipv6_src, packet->source, 16);
		__builtin_memcpy(way->ipv6_dst, packet->destination, 16);
	}
	bool may_fragment = packet->is_v4 && !(ip[6] & 0x40);
	long outcome = fib_lookup(skb, way, sizeof *way, flags);
	if (outcome)
		return outcome == BPF_FIB_LKUP_RET_FRAG_NEEDED && !may_fragment ? TOO_LARGE : NO_PLAIN_WAY;
	return PLAIN_WAY;
}

// Finds a segment's way, and takes the router's step of its hop limit (RFC 1141).
INLINE enum outlook find_way(struct __sk_buff *skb, const struct packet *packet, __u8 *ip, const __u8 *tcp,
			     struct route *known, __u32 tick, struct bpf_fib_lookup *way)
{
	if (!recall(known, tick, skb, packet, ip, way)) {
		enum outlook outlook = look_up(skb, packet, ip, tcp, way, BPF_FIB_LOOKUP_SKIP_NEIGH);
		if (outlook != PLAIN_WAY)
			return outlook;
		remember(known, tick, skb, packet, ip, way);
	}
	if (packet->is_v4) {
		__u32 checksum = raw16_at(ip + 10) + swap16(0x0100);
		*(__u16 *)(ip + 10) = checksum + (checksum >= 0xffff);
		ip[8]--;
	} else {
		ip[7]--;
	}
	return PLAIN_WAY;
}

// Sends a segment that way, to the neighbour whose address the kernel knows or asks for: what kernel forwarding
// does, without what lies around it (netfilter, early demultiplexing, ICMP redirects).
INLINE int send(const struct bpf_fib_lookup *way)
{
	struct bpf_redir_neigh next = { .nh_family = way->family };
	if (way->family == INTERNET)
		next.ipv4_nh = way->ipv4_dst;
	else
		__builtin_memcpy(next.ipv6_nh, way->ipv6_dst, 16);
	return redirect_neigh(way->ifindex, &next, sizeof next, 0);
}

// Tells whether the daemon has emitted all that it had queued of a direction. What is forwarded here would overtake
// the rest: so each direction goes on there until all of that have left.
INLINE bool has_caught_up(const struct flow *flow, const struct end *sender, __u64 captured, const struct settings *s)
{
	__u32 worker = sender->worker;
	volatile __u64 *until = map_lookup(&served, &worker);
	return (until && *until > captured) || ktime() - flow->handed >= s->longest;
}

// A SYN or SYN-ACK while no daemon runs: Offloaded::unattended_syn.
INLINE bool is_newer(const struct flow *flow, const __u8 *tcp, bool from_client)
{
	bool reset = flow->stage & (CLIENT_RESET | SERVER_RESET);
	bool closed = (flow->stage & (CLIENT_FIN | SERVER_FIN)) == (CLIENT_FIN | SERVER_FIN);
	if (from_client)
		return reset || closed;
	__u32 isn = flow->flags & TRANSLATED ? flow->real_isn : flow->client.edge;
	bool own = flow->flags & (TRANSLATED | OPENING) && u32_at(tcp + 4) == isn &&
		   u32_at(tcp + 8) == flow->client_isn + 1;
	return !own && (tcp[13] & (FIN | SYN | RST | ACK)) == (SYN | ACK);
}

// Has `length` bytes of the frame lie one after the other, where they can be read and written.
INLINE bool is_linear(struct __sk_buff *skb, __u32 length)
{
	const __u8 *frame = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	return frame + length <= end || !pull_data(skb, length);
}

INLINE bool is_served(const struct rule *rule, const __u32 *address, __u16 port)
{
	__u32 other = 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		other |= (address[i] ^ rule->prefix[i]) & rule->mask[i];
	return !other && port >= rule->first_port && port <= rule->last_port;
}

enum way { OTHERS, TO_SERVER, TO_CLIENT };

// Services::direction; what is served at both ends is nobody's, but here either will do.
INLINE enum way way_of(const struct packet *packet, const __u8 *tcp, const struct settings *s)
{
	__u16 source = u16_at(tcp), destination = u16_at(tcp + 2);
	for (__u32 i = 0; i < 64 && i < s->rules; i++) {
		// A copy, since the verifier loses track of what a helper could see.
		__u32 index = i;
		struct rule *rule = map_lookup(&rules, &index);
		if (!rule)
			break;
		if (is_served(rule, packet->destination, destination))
			return TO_SERVER;
		if (is_served(rule, packet->source, source))
			return TO_CLIENT;
	}
	return OTHERS;
}

// claim::Bypass::includes: a SYN or SYN-ACK that does not begin its options with the signalling option.
INLINE bool is_let_through(const struct __sk_buff *skb, const struct packet *packet, __u8 flags, bool is_to_server,
			   const struct settings *s)
{
	__u8 kin = flags & (FIN | SYN | RST | ACK);
	if (!s->let_through || kin != (is_to_server ? SYN : SYN | ACK) || (!is_to_server && s->let_through < 2))
		return false;
	__u32 option;
	if (packet->header == TCP)
		return true;
	if (load_bytes(skb, tcp_at(packet) + TCP, &option, sizeof option))
		return false;
	return swap32(option) != s->signature;
}

// Has the daemon capture a copy; tells whether there is a daemon. The original goes on to the guard.
INLINE bool copy_to_daemon(struct __sk_buff *skb, const struct settings *s)
{
	return clone_redirect(skb, s->outlet, 0) != -NO_DEVICE;
}

// Has the daemon capture a copy of what goes on, an IP packet: its hop limit is 0 there, which no packet's is that may go
// on. A hop limit shares a word with another field, and in IPv4 the header's checksum covers it.
INLINE void copy_what_goes_on(struct __sk_buff *skb, const struct packet *packet, const struct settings *s)
{
	__u8 *ip = (__u8 *)(long)skb->data + ETHERNET;
	if (ip + IPV4 > (__u8 *)(long)skb->data_end)
		return;
	__u16 checksum = raw16_at(ip + 10);
	__u8 limit = packet->is_v4 ? ip[8] : ip[7];
	if (packet->is_v4) {
		__u32 sum = checksum + swap16(limit << 8);
		*(__u16 *)(ip + 10) = sum + (sum >> 16);
		ip[8] = 0;
	} else {
		ip[7] = 0;
	}
	copy_to_daemon(skb, s);
	ip = (__u8 *)(long)skb->data + ETHERNET;
	if (ip + IPV4 > (__u8 *)(long)skb->data_end)
		return;
	if (packet->is_v4) {
		*(__u16 *)(ip + 10) = checksum;
		ip[8] = limit;
	} else {
		ip[7] = limit;
	}
}

// A packet that is no plain TCP segment: the daemon gets those among which claimed ones may be.
INLINE int pass_odd(struct __sk_buff *skb, const struct packet *packet, const struct settings *s)
{
	__u8 protocol;
	if (load_bytes(skb, ETHERNET + (packet->is_v4 ? 9 : 6), &protocol, 1))
		return NEXT;
	if (protocol == PROTOCOL_TCP || (packet->is_v4 ? protocol == ICMP
						      : protocol == ICMP6 || protocol == HOP_BY_HOP ||
								protocol == ROUTING || protocol == DESTINATION))
		copy_to_daemon(skb, s);
	return NEXT;
}

// A segment of no flow that was handed over.
INLINE int pass_other(struct __sk_buff *skb, const struct packet *packet, const __u8 *tcp, const struct key *key,
		      const struct settings *s)
{
	enum way way = way_of(packet, tcp, s);
	bool is_syn = way == TO_SERVER && (tcp[13] & (SYN | ACK)) == SYN;
	if (s->begins == ANSWERS ? is_syn && tcp[13] == SYN : s->begins == ACCEPTS && way != OTHERS) {
		if (!s->let_through && !skb->vlan_present)
			tail_call(skb, &beginners, 0);
	}
	if (s->begins && (is_syn || (way != OTHERS && tcp[13] & RST))) {
		// None has, or what comes next would overtake a reset.
		__u32 one = 1;
		map_update(&left, key, &one, 0);
	}
	if (way != OTHERS && !is_let_through(skb, packet, tcp[13], way == TO_SERVER, s))
		copy_to_daemon(skb, s);
	return NEXT;
}

SECTION("classifier") int forward(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct layout layout = {};
	struct bpf_fib_lookup way = {};
	struct key key;
	__u32 zero = 0;
	struct settings *s = map_lookup(&settings, &zero);
	// Nobody forwards what is for another host.
	if (!s || skb->pkt_type != 0 || !is_ip(skb, &packet))
		return NEXT;
	if (!is_linear(skb, tcp_at(&packet) + TCP))
		return pass_odd(skb, &packet, s);
	__u8 *frame = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u8 *ip = frame + ETHERNET, *tcp = frame + tcp_at(&packet);
	if (ip + IPV4 > end || tcp + TCP > end || !read_ip(ip, &packet) || !read_tcp(skb, tcp, &packet))
		return pass_odd(skb, &packet, s);
	bool from_lower = make_key(&packet, tcp, &key);
	// What came in a VLAN is seen again at that one's own interface.
	struct flow *flow = skb->vlan_present ? 0 : map_lookup(&flows, &key);
	if (!flow)
		return pass_other(skb, &packet, tcp, &key, s);
	bool from_client = from_lower == !!(flow->flags & CLIENT_IS_LOWER);
	struct end *sender = from_client ? &flow->client : &flow->server;
	__u64 *captured = from_client ? &flow->client_captured : &flow->server_captured;
	bool is_plain = is_linear(skb, tcp_at(&packet) + packet.header);
	frame = (__u8 *)(long)skb->data, end = (__u8 *)(long)skb->data_end;
	tcp = frame + tcp_at(&packet);
	if (tcp + TCP > end)
		return NEXT;
	__u8 flags = tcp[13];
	is_plain = is_plain && read_options(tcp + TCP, end, packet.header - TCP, &layout) && fits(skb, &packet, s);
	if (sender->waits && has_caught_up(flow, sender, *captured, s))
		sender->waits = 0;
	bool is_left = !is_plain || sender->waits;
	bool is_judged = is_for_daemon(flow, tcp, from_client) ||
			 (closes(flow, tcp, from_client) && (is_left || !tell(flow, &key, tcp, packet.payload, from_client, s))) ||
			 !note(flow, tcp, packet.payload, from_client);
	if (is_left || is_judged) {
		bool is_attended = copy_to_daemon(skb, s);
		if (sender->waits)
			*captured = ktime();
		count(LEFT_TO_DAEMON, 1);
		if (is_attended && (flags & RST || (flags & SYN && from_client))) {
			// What follows may be of the next connection of these ports: it is the daemon's, too, until that has judged. Its SYN must
			// not overtake what the daemon has still to send.
			flow->handed = flow->client_captured = flow->server_captured = ktime();
			flow->client.waits = flow->server.waits = 1;
			if (s->begins)
				map_update(&left, &key, &zero, 0);
		}
		if (is_attended || !is_plain)
			return NEXT;
		// Nothing is queued anywhere.
		flow->client.waits = flow->server.waits = 0;
	} else if (from_client && (flow->flags & (OPENING | TRANSLATED)) == OPENING && packet.payload) {
		// If nobody confirms the handshake the daemon completes it, with these.
		copy_what_goes_on(skb, &packet, s);
	}
	frame = (__u8 *)(long)skb->data, end = (__u8 *)(long)skb->data_end;
	ip = frame + ETHERNET, tcp = frame + tcp_at(&packet);
	if (ip + IPV4 > end || tcp + TCP > end)
		return NEXT;
	if (flags & SYN) {
		if (is_newer(flow, tcp, from_client)) {
			map_delete(&flows, &key);
			count(FORGOTTEN, 1);
		}
		return NEXT;
	}
	__u64 now = ktime_coarse();
	struct route *known = from_client ? &flow->route_to_server : &flow->route_to_client;
	enum outlook outlook = find_way(skb, &packet, ip, tcp, known, now >> TICK, &way);
	// The kernel's ICMP error would quote the wrong numbers.
	if (outlook == TOO_LARGE && copy_to_daemon(skb, s)) {
		count(LEFT_TO_DAEMON, 1);
		return NEXT;
	}
	// Copying may have moved it.
	frame = (__u8 *)(long)skb->data, end = (__u8 *)(long)skb->data_end;
	tcp = frame + tcp_at(&packet);
	if (tcp + TCP > end)
		return NEXT;
	flow->last_used = now;
	if (from_client) {
		flow->to_server.packets += 1;
		flow->to_server.bytes += packet.length;
	} else {
		flow->to_client.packets += 1;
		flow->to_client.bytes += packet.length;
	}
	__u64 sum = 0;
	if (is_judged)
		note(flow, tcp, packet.payload, from_client);
	if (flow->flags & TRANSLATED) {
		if (from_client)
			to_server(flow, tcp, end, &layout, &sum);
		else
			to_client(flow, tcp, end, &layout, &sum);
	}
	if (sum)
		add_to_checksum(skb, &packet, sum);
	skb->mark = s->mark;
	count(FORWARDED_PACKETS, 1);
	count(FORWARDED_BYTES, packet.length);
	return outlook == PLAIN_WAY ? send(&way) : NEXT;
}

#include "handshake.h"
#include "answer.h"
#include "accept.h"

// What the outlet keeps of what has been captured.
SECTION("socket") int nothing(struct __sk_buff *skb)
{
	(void)skb;
	return 0;
}

char terms[] SECTION("license") = "Dual MIT/GPL";
