// What both programs need that begin handshakes: `answer` at ClientNIC, `accept` at ServerNIC.

enum { USUAL = TCP + 20, OFFER = 20, SHOT = 2, OPTIONS = 5, WORDS = 7 };

struct secret {
	__u64 halves[2];
	__u32 id, zero;
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct secret *value;
} secrets SECTION(".maps");

// A handshake with a server that is not made yet. Whoever takes it out of the map goes on with it: the program that makes it or leaves
// it to the daemon, or the daemon.
struct opening {
	__u32 client_isn, promised_isn, promised_tsval, elder;
	__u32 worker, place;  // in `opened`
	__u16 mss;            // as promised, like the scale
	__u8 scale, client_scale;
	__u8 client_is_lower, has_answer, zero[2];
	// The server's first SYN-ACK.
	__u8 answer[80];
	__u32 answer_length;
};

// What the stack has no room for, and is needed no longer once something is sent: that may come back here.
struct draft {
	struct flow flow;
	struct opening opening;
	struct bpf_fib_lookup back;
	__u64 words[WORDS];
};

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct draft *value;
} drafts SECTION(".maps");

static long (*change_tail)(struct __sk_buff *, __u32 length, __u64 flags) = (void *)BPF_FUNC_skb_change_tail;

INLINE __u64 rotated(__u64 v, __u32 left) { return v << left | v >> (64 - left); }

struct sip {
	__u64 a, b, c, d;
};

INLINE void sip_rounds(struct sip *v, int rounds)
{
#pragma unroll
	for (int i = 0; i < rounds; i++) {
		v->a += v->b, v->b = rotated(v->b, 13) ^ v->a, v->a = rotated(v->a, 32);
		v->c += v->d, v->d = rotated(v->d, 16) ^ v->c;
		v->a += v->d, v->d = rotated(v->d, 21) ^ v->a;
		v->c += v->b, v->b = rotated(v->b, 17) ^ v->c, v->c = rotated(v->c, 32);
	}
}

// SipHash-2-4 of `count` words, of which the last has the length in its highest byte.
static __attribute__((noinline)) __u64 siphash(const struct secret *secret, const __u64 *words, __u32 count)
{
	struct sip v = {
		secret->halves[0] ^ 0x736f6d6570736575,
		secret->halves[1] ^ 0x646f72616e646f6d,
		secret->halves[0] ^ 0x6c7967656e657261,
		secret->halves[1] ^ 0x7465646279746573,
	};
	for (__u32 i = 0; i < count && i < WORDS; i++) {
		v.d ^= words[i];
		sip_rounds(&v, 2);
		v.a ^= words[i];
	}
	v.c ^= 0xff;
	sip_rounds(&v, 4);
	return v.a ^ v.b ^ v.c ^ v.d;
}

// rtt0_netio::capture::spread::place: which worker has a flow.
INLINE __u32 end_hash(const __u32 *address, __u16 port, bool is_v4)
{
	__u32 folded = swap32(address[3]);
	if (!is_v4) {
		folded = 0;
#pragma unroll
		for (int i = 0; i < 4; i++)
			folded = folded * 0x27d4eb2f + swap32(address[i]);
	}
	__u32 hash = folded + port * 0x9e3779b1;
	hash = (hash ^ hash >> 15) * 0x85ebca6b;
	return hash ^ hash >> 13;
}

INLINE __u32 worker_of(const struct packet *packet, const __u8 *tcp, const struct settings *s)
{
	__u32 sum = end_hash(packet->source, u16_at(tcp), packet->is_v4) +
		    end_hash(packet->destination, u16_at(tcp + 2), packet->is_v4);
	sum *= 0xc2b2ae35;
	sum ^= sum >> 16;
	return s->workers ? sum % s->workers : 0;
}

// Whether the options are those that current systems ask for, in the layout of Linux.
INLINE bool has_usual_options(const __u8 *options)
{
	return u16_at(options) == 0x0204 && u32_at(options + 4) == 0x0402080a && u16_at(options + 16) == 0x0103 &&
	       options[18] == 3 && options[19] <= 14;
}

INLINE __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// Whether a segment of `length` bytes has the right checksum, or one that has still to be filled in: then it is the
// pseudo-header's sum.
INLINE bool is_sound(const struct packet *packet, const __u8 *tcp, __u32 length)
{
	__u64 sum = swap16(PROTOCOL_TCP) + swap16(length);
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (!packet->is_v4 || i == 3)
			sum += (__u64)packet->source[i] + packet->destination[i];
	}
	__u16 begun = folded(sum);
#pragma unroll
	for (__u32 i = 0; i < length; i += 4)
		sum += raw32_at(tcp + i);
	return folded(sum) == 0xffff || raw16_at(tcp + 16) == begun;
}

// Sets the parts of an IPv4 header that its checksum covers besides the addresses.
INLINE void set_ipv4(__u8 *ip, __u8 tos, __u16 length, __u32 id_and_fragment, __u8 limit)
{
	ip[1] = tos;
	*(__u16 *)(ip + 2) = swap16(length);
	*(__u32 *)(ip + 4) = id_and_fragment;
	ip[8] = limit;
	*(__u16 *)(ip + 10) = 0;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < IPV4; i += 2)
		sum += raw16_at(ip + i);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u16 *)(ip + 10) = ~(sum + (sum >> 16));
}

INLINE void put_addresses(const struct packet *packet, __u8 *ip, bool swapped)
{
	const __u32 *source = swapped ? packet->destination : packet->source;
	const __u32 *destination = swapped ? packet->source : packet->destination;
	if (packet->is_v4) {
		*(__u32 *)(ip + 12) = source[3];
		*(__u32 *)(ip + 16) = destination[3];
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		*(__u32 *)(ip + 8 + 4 * i) = source[i];
		*(__u32 *)(ip + 24 + 4 * i) = destination[i];
	}
}

// What all hashes of an offer begin with: 4-tuple and client ISN. The first byte is the use's.
INLINE void prepare(const struct packet *packet, const __u8 *tcp, __u64 *words)
{
	__u8 *bytes = (__u8 *)words;
	__builtin_memcpy(bytes + 1, packet->source, 16);
	__builtin_memcpy(bytes + 17, packet->destination, 16);
	__builtin_memcpy(bytes + 33, tcp, 4);
	__builtin_memcpy(bytes + 37, tcp + 4, 4);
	__builtin_memset(bytes + 41, 0, 15);
}

INLINE __u64 promised(const struct secret *secret, __u64 *words, __u8 use)
{
	__u8 *bytes = (__u8 *)words;
	bytes[0] = use;
	bytes[47] = 41;
	return siphash(secret, words, 6);
}

// The signature of an offer, as a number in host byte order.
INLINE __u64 signature(const struct secret *secret, __u64 *words, const __u8 *offer)
{
	__u8 *bytes = (__u8 *)words;
	bytes[0] = 'M';
	__builtin_memcpy(bytes + 41, offer, 12);
	bytes[55] = 53;
	return siphash(secret, words, 7);
}

// Copies a packet of `length` bytes of TCP.
INLINE void copy_packet(struct __sk_buff *skb, const struct packet *packet, __u8 *to, __u32 length)
{
	load_bytes(skb, ETHERNET, to, IPV4 + length);
	if (!packet->is_v4)
		load_bytes(skb, ETHERNET + IPV4 + length, to + IPV4 + length, IPV6 - IPV4);
}

// What is served at both ends is nobody's.
INLINE bool serves_source(const struct packet *packet, const __u8 *tcp, const struct settings *s)
{
	__u16 source = u16_at(tcp);
	for (__u32 i = 0; i < 64 && i < s->rules; i++) {
		__u32 index = i;
		struct rule *rule = map_lookup(&rules, &index);
		if (rule && is_served(rule, packet->source, source))
			return true;
	}
	return false;
}

// Leaves a SYN to the daemon.
INLINE int leave(struct __sk_buff *skb, const struct key *key, const struct settings *s)
{
	__u32 one = 1;
	map_update(&left, key, &one, 0);
	copy_to_daemon(skb, s);
	return NEXT;
}
