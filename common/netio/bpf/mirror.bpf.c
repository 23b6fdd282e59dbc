// Hands the tunnels' packets to AF_XDP sockets, and everything else to the kernel.
//
//   driver ──▶ `rtt0_mirror` ─┬─ UDP to a port of the tunnels ──▶ socket of the receive queue
//                             └─ anything else ──▶ the kernel, as if nothing stood here
//
// What cannot be handed over – no socket has the queue, or no frame of the socket has room – goes to the kernel too:
// nothing is dropped here. The names are ours alone, so that nobody takes another's maps for them.

#include <linux/bpf.h>
#include <stdbool.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

// Helpers by their numbers in linux/bpf.h, so that no header of another project is needed.
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

enum { QUEUES = 64, PORTS = 65536, BITS = 64 };
// What is redirected is counted for each queue, so that it can be held against what has come to that queue's socket.
enum { SEEN, PASSED, UNSERVED, TOO_LONG, REDIRECTED, COUNTERS = REDIRECTED + QUEUES };

// One socket for each receive queue.
struct {
	int (*type)[BPF_MAP_TYPE_XSKMAP];
	int (*key_size)[4];
	int (*value_size)[4];
	int (*max_entries)[QUEUES];
} rtt0_mirror_xsk SECTION(".maps");

// A bit for each port, set for the tunnels': one look-up, however many ports there are.
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[PORTS / BITS];
	__u32 *key;
	__u64 *value;
} rtt0_mirror_prt SECTION(".maps");

// Bytes of the longest frame that a socket takes.
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	__u32 *value;
} rtt0_mirror_max SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	int (*max_entries)[COUNTERS];
	__u32 *key;
	__u64 *value;
} rtt0_mirror_cnt SECTION(".maps");

enum { ETHERNET = 14, IPV4 = 20, IPV6 = 40, UDP = 8, PROTOCOL_UDP = 17 };
enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd };
// More fragments, and where in the packet this one lies (RFC 791 section 3.1).
enum { FRAGMENT = 0x3fff };

INLINE __u32 u16_at(const __u8 *p) { return (__u32)p[0] << 8 | p[1]; }

INLINE int count(__u32 which, int verdict)
{
	__u64 *value = map_lookup(&rtt0_mirror_cnt, &which);
	if (value)
		*value += 1;
	return verdict;
}

// The UDP header of an unfragmented packet without options or extension headers, or null.
INLINE const __u8 *udp_header(const __u8 *frame, const __u8 *end)
{
	const __u8 *ip = frame + ETHERNET;
	if (ip + IPV4 + UDP > end)
		return 0;
	__u32 type = u16_at(frame + 12);
	if (type == TYPE_IPV4) {
		if (ip[0] != 0x45 || ip[9] != PROTOCOL_UDP || u16_at(ip + 6) & FRAGMENT)
			return 0;
		return ip + IPV4;
	}
	if (type == TYPE_IPV6) {
		if (ip + IPV6 + UDP > end || ip[0] >> 4 != 6 || ip[6] != PROTOCOL_UDP)
			return 0;
		return ip + IPV6;
	}
	return 0;
}

INLINE bool is_tunnel(__u32 port)
{
	__u32 word = port / BITS;
	const __u64 *bits = map_lookup(&rtt0_mirror_prt, &word);
	return bits && *bits >> (port % BITS) & 1;
}

SECTION("xdp") int rtt0_mirror(struct xdp_md *context)
{
	const __u8 *frame = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	count(SEEN, 0);
	const __u8 *udp = udp_header(frame, end);
	if (!udp || !is_tunnel(u16_at(udp + 2)))
		return count(PASSED, XDP_PASS);
	__u32 zero = 0;
	const __u32 *largest = map_lookup(&rtt0_mirror_max, &zero);
	if (!largest || end - frame > *largest)
		return count(TOO_LONG, XDP_PASS);
	// What is returned where no socket has the queue stands in the lower bits of the flags.
	__u32 queue = context->rx_queue_index;
	if (redirect_map(&rtt0_mirror_xsk, queue, XDP_PASS) != XDP_REDIRECT)
		return count(UNSERVED, XDP_PASS);
	// The map has no socket beyond its last queue, so the counter is there.
	return count(REDIRECTED + queue, XDP_REDIRECT);
}

char terms[] SECTION("license") = "Dual MIT/GPL";
