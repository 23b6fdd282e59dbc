// Who answers a SYN: the kernel, where the daemon would only repeat what it knows.
//
//   SYN ──▶ `forward` ──▶ `answer` ─┬─ SYN-ACK ──▶ client
//                                   ├─ flow, opening ──▶ `flows`; the daemon's worker is told, and not woken
//                                   └─ SYN with the offer ──▶ route, neighbour ──▶ ServerNIC
//
// What it sends is said by rtt0_core::spoof::spoof_at_once; a test holds it against that, byte by byte. The daemon says in
// `promises` of which destinations, and in `allowed` until when. Any other SYN is the daemon's, and so is each that follows of the same
// ports: `left` knows of which it may have heard.

struct destination {
	__u32 address[4];
	__u16 port, zero;  // network byte order
};

struct promise {
	__u64 until;       // ns
	__u16 mss, window;
	__u8 scale, zero[3];
};

// For each worker, a queue of those that were answered, as `closing` is one.
struct begun {
	__u64 queued, taken;
	struct {
		__u8 syn[80];
		__u8 offer[OFFER];
		__u32 length;
		__u64 at;  // ns
		__u64 turn;
	} flows[CLOSING];
};

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[1 << 16];
	int (*map_flags)[BPF_F_NO_PREALLOC];
	struct destination *key;
	struct promise *value;
} promises SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[WORKERS];
	int (*map_flags)[BPF_F_MMAPABLE];
	__u32 *key;
	struct begun *value;
} begun SECTION(".maps");

// Whether a SYN asks for what `promises` are about, in the layout of Linux, and for nothing else.
INLINE bool is_usual(const struct packet *packet, const __u8 *tcp)
{
	return packet->header == USUAL && !packet->payload && tcp[12] == USUAL << 2 && tcp[13] == SYN &&
	       has_usual_options(tcp + TCP) && is_sound(packet, tcp, USUAL);
}

// The way back to the client, to the neighbour's address: what is copied can't wait for that to be asked for.
INLINE bool find_way_back(struct __sk_buff *skb, const struct packet *packet, const __u8 *tcp, struct bpf_fib_lookup *way)
{
	way->family = packet->is_v4 ? INTERNET : INTERNET6;
	way->l4_protocol = PROTOCOL_TCP;
	way->sport = raw16_at(tcp + 2);
	way->dport = raw16_at(tcp);
	way->tot_len = packet->length;
	way->ifindex = skb->ifindex;
	if (packet->is_v4) {
		way->ipv4_src = packet->destination[3];
		way->ipv4_dst = packet->source[3];
	} else {
		__builtin_memcpy(way->ipv6_src, packet->destination, 16);
		__builtin_memcpy(way->ipv6_dst, packet->source, 16);
	}
	return !fib_lookup(skb, way, sizeof *way, 0);
}

// What a promise says, and what was made of it.
struct answer {
	__u32 isn, tsval;
	__u16 mss, window;
	__u8 scale, zero[3];
	__u8 offer[OFFER];
};

// Offer::encode, with the promised ISN and TSval.
INLINE void make_offer(const struct packet *packet, const __u8 *tcp, const struct secret *secret, __u64 *words,
		       struct answer *answer)
{
	__u8 *offer = answer->offer;
	prepare(packet, tcp, words);
	answer->isn = promised(secret, words, 'S');
	answer->tsval = promised(secret, words, 'T');
	if (!answer->tsval)
		answer->tsval = 1;
	offer[0] = 253, offer[1] = OFFER, offer[2] = 0x5a, offer[3] = 0x52;
	offer[4] = 1 << 4 | (secret->id & 3) << 2;
	offer[5] = answer->scale << 4 | 1 << 3 | 1 << 2;
	*(__u16 *)(offer + 6) = swap16(answer->mss);
	*(__u32 *)(offer + 8) = swap32(answer->tsval);
	*(__u64 *)(offer + 12) = __builtin_bswap64(signature(secret, words, offer));
}

// Tells the worker, which is not woken; whether there was room for that.
INLINE bool tell_begun(struct __sk_buff *skb, const struct packet *packet, const struct answer *answer, struct begun *queue)
{
	__u64 turn;
	if (!claim(&queue->queued, &queue->taken, &turn))
		return false;
	__u32 place = turn % CLOSING;
	copy_packet(skb, packet, queue->flows[place].syn, USUAL);
	__builtin_memcpy(queue->flows[place].offer, answer->offer, OFFER);
	queue->flows[place].length = packet->length;
	queue->flows[place].at = ktime();
	__sync_lock_test_and_set(&queue->flows[place].turn, turn + 1);
	return true;
}

// Offloaded::opening.
INLINE bool begin(struct flow *flow, const struct key *key, const __u8 *tcp, const struct answer *answer, bool from_lower,
		  __u32 worker)
{
	__u32 isn = u32_at(tcp + 4);
	flow->client_isn = isn;
	flow->flags = OPENING | (from_lower ? CLIENT_IS_LOWER : 0);
	flow->client.next = flow->server.acknowledged = flow->server.edge = isn + 1;
	flow->client.acknowledged = flow->client.edge = answer->isn;
	flow->client.worker = flow->server.worker = worker;
	flow->last_used = ktime_coarse();
	return !map_update(&flows, key, flow, BPF_NOEXIST);
}

SECTION("classifier") int answer(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct bpf_fib_lookup way = {};
	struct answer answer = {};
	struct destination destination = {};
	struct key key;
	__u32 zero = 0, old[USUAL / 4];
	struct settings *s = map_lookup(&settings, &zero);
	struct secret *secret = map_lookup(&secrets, &zero);
	struct draft *draft = map_lookup(&drafts, &zero);
	if (!s || !secret || !draft || !is_ip(skb, &packet))
		return NEXT;
	if (!is_linear(skb, tcp_at(&packet) + TCP))
		return NEXT;
	bool is_long = is_linear(skb, tcp_at(&packet) + USUAL);
	__u8 *frame = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u8 *ip = frame + ETHERNET, *tcp = frame + tcp_at(&packet);
	if (ip + IPV4 > end || tcp + TCP > end || !read_ip(ip, &packet) || !read_tcp(skb, tcp, &packet))
		return NEXT;
	bool from_lower = make_key(&packet, tcp, &key);
	if (!is_long || tcp + USUAL > end || !is_usual(&packet, tcp) || skb->len != ETHERNET + packet.length ||
	    packet.length + OFFER > s->largest || map_lookup(&left, &key) || serves_source(&packet, tcp, s))
		return leave(skb, &key, s);
	__builtin_memcpy(destination.address, packet.destination, 16);
	destination.port = raw16_at(tcp + 2);
	struct promise *promise = map_lookup(&promises, &destination);
	__u32 worker = worker_of(&packet, tcp, s);
	struct begun *queue = map_lookup(&begun, &worker);
	volatile __u64 *until = map_lookup(&allowed, &worker);
	__u64 now = ktime();
	if (!promise || !queue || !until || promise->until <= now || *until <= now)
		return leave(skb, &key, s);
	__u32 clamp = packet.is_v4 ? s->mss_v4 : s->mss_v6;
	answer.mss = promise->mss < clamp ? promise->mss : clamp;
	answer.window = promise->window;
	answer.scale = promise->scale;
	__builtin_memset(draft, 0, sizeof *draft);
	if (!find_way_back(skb, &packet, tcp, &draft->back))
		return leave(skb, &key, s);
	packet.length += OFFER;
	enum outlook outlook = look_up(skb, &packet, ip, tcp, &way, BPF_FIB_LOOKUP_SKIP_NEIGH);
	packet.length -= OFFER;
	if (outlook != PLAIN_WAY)
		return leave(skb, &key, s);
	make_offer(&packet, tcp, secret, draft->words, &answer);
	if (!begin(&draft->flow, &key, tcp, &answer, from_lower, worker))
		return leave(skb, &key, s);
	if (!tell_begun(skb, &packet, &answer, queue)) {
		map_delete(&flows, &key);
		return leave(skb, &key, s);
	}

	// The SYN becomes its answer, which is copied back.
	__builtin_memcpy(old, tcp, sizeof old);
	__u8 tos = packet.is_v4 ? ip[1] : 0, limit = packet.is_v4 ? ip[8] : ip[7];
	__u32 id = raw32_at(ip + 4), label = raw32_at(ip);
	__u64 sum = 0;
	__builtin_memcpy(frame, draft->back.dmac, 6);
	__builtin_memcpy(frame + 6, draft->back.smac, 6);
	put_addresses(&packet, ip, true);
	if (packet.is_v4) {
		set_ipv4(ip, 0, packet.length, swap32(0x4000), 64);
	} else {
		*(__u32 *)ip = swap32(0x60000000);
		ip[7] = 64;
	}
	put32(tcp, old[0] >> 16 | old[0] << 16, &sum);
	put32(tcp + 4, swap32(answer.isn), &sum);
	put32(tcp + 8, swap32(swap32(old[1]) + 1), &sum);
	put32(tcp + 12, swap32((USUAL << 2) << 24 | (SYN | ACK) << 16 | answer.window), &sum);
	put16(tcp + 18, 0, &sum);
	put16(tcp + 22, swap16(answer.mss), &sum);
	put32(tcp + 28, swap32(answer.tsval), &sum);
	put32(tcp + 32, old[7], &sum);
	put16(tcp + 38, swap16(3 << 8 | answer.scale), &sum);
	add_to_checksum(skb, &packet, sum);
	skb->mark = s->mark;
	clone_redirect(skb, draft->back.ifindex, 0);

	// And again the SYN, with the offer before its other options. If that fails the daemon repeats it.
	if (change_tail(skb, skb->len + OFFER, 0) || !is_linear(skb, tcp_at(&packet) + USUAL + OFFER))
		return SHOT;
	frame = (__u8 *)(long)skb->data, end = (__u8 *)(long)skb->data_end;
	ip = frame + ETHERNET, tcp = frame + tcp_at(&packet);
	if (ip + IPV4 > end || tcp + USUAL + OFFER > end)
		return SHOT;
	sum = 0;
	put_addresses(&packet, ip, false);
	if (packet.is_v4) {
		set_ipv4(ip, tos, packet.length + OFFER, id, limit - 1);
	} else {
		*(__u32 *)ip = label;
		*(__u16 *)(ip + 4) = swap16(USUAL + OFFER);
		ip[7] = limit - 1;
	}
#pragma unroll
	for (int i = 0; i < USUAL / 4; i++) {
		if (i == 4)
			put16(tcp + 18, old[4] >> 16, &sum);
		else
			put32(tcp + 4 * i, old[i], &sum);
	}
	put16(tcp + 12, swap16(((USUAL + OFFER) << 2) << 8 | SYN), &sum);
#pragma unroll
	for (int i = 0; i < OPTIONS; i++) {
		__u32 word = *(__u32 *)(answer.offer + 4 * i);
		*(__u32 *)(tcp + USUAL + 4 * i) = old[5 + i];
		*(__u32 *)(tcp + TCP + 4 * i) = word;
		sum += word;
	}
	add_to_checksum(skb, &packet, sum);
	l4_csum_replace(skb, tcp_at(&packet) + 16, swap16(USUAL), swap16(USUAL + OFFER), BPF_F_PSEUDO_HDR | 2);
	return send(&way);
}
