// Who makes the handshake with the server: the kernel, where all of it is usual and at once.
//
//   SYN with an offer ──▶ `forward` ──▶ `accept` ─┬─ two SYNs ──▶ route, neighbour ──▶ server
//                                                 └─ `openings`; the daemon's worker is told, and not woken
//   server's SYN-ACK, twice and alike ──▶ `accept` ──▶ flow, `flows`; its place in `opened` says so
//   anything else of those ends ──▶ `accept` ──▶ the daemon, which goes on with the handshake
//
// What it sends and makes is said by rtt0_core::accept::AtOnce; a test holds it against that. The daemon says in `allowed` until when it may.
// It confirms later what was made here.

enum { BEGUN, LEFT, MADE, NONE };

// For each worker, a queue of those that were begun, as `closing` is one. While it is BEGUN a place belongs to whoever takes the
// handshake out of `openings`.
struct opened {
	__u64 queued, taken;
	struct {
		__u8 syn[100], answer[80];
		__u32 syn_length, answer_length;
		__u32 state;
		__u64 at;  // when it was begun or made, ns
		__u64 turn;
	} flows[CLOSING];
};

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[WORKERS * CLOSING / 2];
	int (*map_flags)[BPF_F_NO_PREALLOC];
	struct key *key;
	struct opening *value;
} openings SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[WORKERS];
	int (*map_flags)[BPF_F_MMAPABLE];
	__u32 *key;
	struct opened *value;
} opened SECTION(".maps");

// Says what has become of a handshake, and what the server has answered. To be called by who has taken it out of `openings`.
INLINE void conclude(const struct opening *opening, __u32 state)
{
	__u32 worker = opening->worker, place = opening->place;
	struct opened *queue = map_lookup(&opened, &worker);
	if (!queue || place >= CLOSING)
		return;
	if (opening->has_answer) {
		__builtin_memcpy(queue->flows[place].answer, opening->answer, sizeof opening->answer);
		queue->flows[place].answer_length = opening->answer_length;
	}
	if (state == MADE)
		queue->flows[place].at = ktime();
	__sync_lock_test_and_set(&queue->flows[place].state, state);
}

// Leaves a handshake to the daemon, and a packet.
INLINE int let_go(struct __sk_buff *skb, const struct opening *opening, const struct key *key, const struct settings *s)
{
	if (!map_delete(&openings, key))
		conclude(opening, LEFT);
	return leave(skb, key, s);
}

// AtOnce::begin, what it asks of a SYN. Sets what the offer says.
INLINE bool is_offered(const struct packet *packet, const __u8 *tcp, const struct secret *secret, struct draft *draft)
{
	const __u8 *offer = tcp + TCP;
	struct opening *opening = &draft->opening;
	if (packet->header != USUAL + OFFER || packet->payload || tcp[12] != (USUAL + OFFER) << 2 || tcp[13] != SYN ||
	    u32_at(offer) != (253u << 24 | OFFER << 16 | 0x5a52) || offer[4] != (1 << 4 | (secret->id & 3) << 2) ||
	    (offer[5] & 15) != (1 << 3 | 1 << 2) || offer[5] >> 4 == 15 || !has_usual_options(offer + OFFER) ||
	    !is_sound(packet, tcp, USUAL + OFFER))
		return false;
	opening->client_isn = u32_at(tcp + 4);
	opening->promised_tsval = u32_at(offer + 8);
	opening->elder = u32_at(offer + OFFER + 8) - 1;
	opening->mss = u16_at(offer + 6);
	opening->scale = offer[5] >> 4;
	opening->client_scale = offer[OFFER + 19];
	prepare(packet, tcp, draft->words);
	opening->promised_isn = promised(secret, draft->words, 'S');
	__u64 signed_by = signature(secret, draft->words, offer);
	return u32_at(offer + 12) == signed_by >> 32 && u32_at(offer + 16) == (__u32)signed_by;
}

// Tells the worker, which is not woken; whether there was room for that.
INLINE bool tell_opened(struct __sk_buff *skb, const struct packet *packet, const struct key *key, struct opening *opening,
			struct opened *queue)
{
	__u64 turn;
	if (!claim(&queue->queued, &queue->taken, &turn))
		return false;
	__u32 place = turn % CLOSING;
	opening->place = place;
	copy_packet(skb, packet, queue->flows[place].syn, USUAL + OFFER);
	queue->flows[place].syn_length = packet->length;
	queue->flows[place].answer_length = 0;
	queue->flows[place].at = ktime();
	bool is_new = !map_update(&openings, key, opening, BPF_NOEXIST);
	queue->flows[place].state = is_new ? BEGUN : NONE;
	__sync_lock_test_and_set(&queue->flows[place].turn, turn + 1);
	return is_new;
}

// Begins with a SYN that has an offer: sends it on twice without that.
INLINE int begin_opening(struct __sk_buff *skb, struct packet *packet, const struct key *key, bool from_lower,
			 struct draft *draft, const struct settings *s)
{
	__u32 zero = 0;
	struct secret *secret = map_lookup(&secrets, &zero);
	struct opening *opening = &draft->opening;
	struct bpf_fib_lookup *way = &draft->back;
	__builtin_memset(draft, 0, sizeof *draft);
	bool is_long = is_linear(skb, tcp_at(packet) + USUAL + OFFER);
	__u8 *frame = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u8 *ip = frame + ETHERNET, *tcp = frame + tcp_at(packet);
	if (!secret || !is_long || ip + IPV4 > end || tcp + USUAL + OFFER > end)
		return leave(skb, key, s);
	if (skb->len != ETHERNET + packet->length || packet->length > s->largest || map_lookup(&left, key) ||
	    serves_source(packet, tcp, s) || !is_offered(packet, tcp, secret, draft))
		return leave(skb, key, s);
	__u32 worker = worker_of(packet, tcp, s);
	struct opened *queue = map_lookup(&opened, &worker);
	volatile __u64 *until = map_lookup(&allowed, &worker);
	if (!queue || !until || *until <= ktime())
		return leave(skb, key, s);
	opening->worker = worker;
	opening->client_is_lower = from_lower;
	packet->length -= OFFER;
	enum outlook outlook = look_up(skb, packet, ip, tcp, way, 0);
	packet->length += OFFER;
	if (outlook != PLAIN_WAY || !tell_opened(skb, packet, key, opening, queue))
		return leave(skb, key, s);

	// If sending fails the daemon repeats it.
	__u64 sum = 0;
	__builtin_memcpy(frame, way->dmac, 6);
	__builtin_memcpy(frame + 6, way->smac, 6);
	if (packet->is_v4) {
		set_ipv4(ip, ip[1], packet->length - OFFER, raw32_at(ip + 4), ip[8] - 1);
	} else {
		*(__u16 *)(ip + 4) = swap16(USUAL);
		ip[7]--;
	}
	put16(tcp + 12, swap16((USUAL << 2) << 8 | SYN), &sum);
#pragma unroll
	for (int i = 0; i < OPTIONS; i++) {
		sum += (__u32)~raw32_at(tcp + TCP + 4 * i);
		*(__u32 *)(tcp + TCP + 4 * i) = raw32_at(tcp + TCP + OFFER + 4 * i);
	}
	put32(tcp + TCP + 8, swap32(opening->elder), &sum);
	if (change_tail(skb, skb->len - OFFER, 0))
		return SHOT;
	add_to_checksum(skb, packet, sum);
	l4_csum_replace(skb, tcp_at(packet) + 16, swap16(USUAL + OFFER), swap16(USUAL), BPF_F_PSEUDO_HDR | 2);
	skb->mark = s->mark;
	clone_redirect(skb, way->ifindex, 0);
	if (!is_linear(skb, tcp_at(packet) + USUAL))
		return SHOT;
	frame = (__u8 *)(long)skb->data, end = (__u8 *)(long)skb->data_end;
	tcp = frame + tcp_at(packet);
	if (tcp + USUAL > end)
		return SHOT;
	sum = 0;
	put32(tcp + TCP + 8, swap32(opening->elder + 1), &sum);
	add_to_checksum(skb, packet, sum);
	return send(way);
}

// AtOnce::judge.
INLINE bool is_usual_answer(const struct packet *packet, const __u8 *tcp, const struct opening *opening)
{
	return packet->header == USUAL && !packet->payload && tcp[12] == USUAL << 2 && tcp[13] == (SYN | ACK) &&
	       u32_at(tcp + 8) == opening->client_isn + 1 && has_usual_options(tcp + TCP) &&
	       u32_at(tcp + TCP + 12) == opening->elder && u16_at(tcp + TCP + 2) >= opening->mss &&
	       is_sound(packet, tcp, USUAL);
}

// Of the first SYN-ACK, whether another says the same but for the server's clock.
INLINE bool is_alike(const struct opening *opening, const __u8 *tcp, bool is_v4)
{
	const __u8 *first = opening->answer + (is_v4 ? IPV4 : IPV6);
	return raw32_at(first + 4) == raw32_at(tcp + 4) && raw16_at(first + 14) == raw16_at(tcp + 14) &&
	       raw16_at(first + TCP + 2) == raw16_at(tcp + TCP + 2) && first[TCP + 19] == tcp[TCP + 19];
}

// AtOnce::make.
INLINE void make_flow(struct flow *flow, const struct opening *opening, const __u8 *tcp)
{
	__u32 isn = u32_at(tcp + 4), tsval = u32_at(tcp + TCP + 8), first = opening->client_isn + 1;
	__u8 scale = tcp[TCP + 19];
	flow->delta = opening->promised_isn - isn;
	flow->tsval_offset = opening->promised_tsval - tsval;
	flow->client_isn = opening->client_isn;
	flow->real_isn = isn;
	flow->flags = TRANSLATED | TIMESTAMPS | HIDE_ECHO | OPENING | (opening->client_is_lower ? CLIENT_IS_LOWER : 0);
	flow->server_shift = scale - opening->scale;
	flow->client.next = flow->server.acknowledged = first;
	flow->client.acknowledged = flow->client.edge = flow->server.next = isn + 1;
	flow->server.edge = first + u16_at(tcp + 14);
	flow->client.scale = opening->client_scale;
	flow->server.scale = scale;
	flow->client.worker = flow->server.worker = opening->worker;
	flow->syn_ack_tsval = tsval;
	flow->last_used = ktime_coarse();
}

INLINE void note_answer(struct __sk_buff *skb, const struct packet *packet, struct opening *opening)
{
	opening->has_answer = true;
	opening->answer_length = packet->length;
	copy_packet(skb, packet, opening->answer, USUAL);
}

// A packet of a handshake under way.
INLINE int go_on(struct __sk_buff *skb, const struct packet *packet, const struct key *key, bool from_client,
		 struct opening *opening, struct draft *draft, const struct settings *s)
{
	bool is_long = is_linear(skb, tcp_at(packet) + USUAL);
	__u8 *frame = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u8 *tcp = frame + tcp_at(packet);
	if (!is_long || tcp + USUAL > end || skb->len != ETHERNET + packet->length || from_client ||
	    !is_usual_answer(packet, tcp, opening))
		return let_go(skb, opening, key, s);
	__builtin_memset(&draft->flow, 0, sizeof draft->flow);
	__builtin_memcpy(&draft->opening, opening, sizeof *opening);
	note_answer(skb, packet, &draft->opening);
	if (!opening->has_answer) {
		// Unless somebody has just taken it.
		if (map_update(&openings, key, &draft->opening, BPF_EXIST))
			return leave(skb, key, s);
		return SHOT;
	}
	if (!is_alike(opening, tcp, packet->is_v4))
		return let_go(skb, opening, key, s);
	make_flow(&draft->flow, opening, tcp);
	if (map_delete(&openings, key))
		return leave(skb, key, s);
	if (map_update(&flows, key, &draft->flow, BPF_NOEXIST)) {
		conclude(opening, LEFT);
		return leave(skb, key, s);
	}
	conclude(&draft->opening, MADE);
	return SHOT;
}

SECTION("classifier") int accept(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct key key;
	__u32 zero = 0;
	struct settings *s = map_lookup(&settings, &zero);
	struct draft *draft = map_lookup(&drafts, &zero);
	if (!s || !draft || !is_ip(skb, &packet))
		return NEXT;
	if (!is_linear(skb, tcp_at(&packet) + TCP))
		return NEXT;
	__u8 *frame = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u8 *ip = frame + ETHERNET, *tcp = frame + tcp_at(&packet);
	if (ip + IPV4 > end || tcp + TCP > end || !read_ip(ip, &packet) || !read_tcp(skb, tcp, &packet))
		return NEXT;
	bool from_lower = make_key(&packet, tcp, &key);
	struct opening *opening = map_lookup(&openings, &key);
	if (opening)
		return go_on(skb, &packet, &key, from_lower == !!opening->client_is_lower, opening, draft, s);
	if ((tcp[13] & (SYN | ACK)) == SYN && way_of(&packet, tcp, s) == TO_SERVER)
		return begin_opening(skb, &packet, &key, from_lower, draft, s);
	// The next SYN of these ports must not overtake a reset.
	if (tcp[13] & RST)
		return leave(skb, &key, s);
	copy_to_daemon(skb, s);
	return NEXT;
}
