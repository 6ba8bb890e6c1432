/*
 * The lease, fencing and epoch protocol of dfs, as the code has it: lockserver (table*.go, server*.go, clerk*.go)
 * and blockstore (state_apply.go). See README.md for what is modelled, the invariants, the guards and the sizes.
 *
 * One lock, one block; NC file servers (clients), NR reigns (leaders). Names are those of the code. Every step is one
 * atomic option of a loop, so that the state holds no program counters. A guard is taken out by -DNO_….
 */

#ifndef NC
#define NC 2            /* file servers */
#endif
#ifndef NR
#define NR 1            /* reigns: NR-1 changes of leader */
#endif
#ifndef OPS
#define OPS 2           /* writes of a file server */
#endif
#ifndef FAULTS
#define FAULTS 0        /* messages lost, doubled or delayed; records proposed twice; a stream broken */
#endif
#ifndef SESSIONS
#define SESSIONS 1      /* sessions of client 0, one after another */
#endif
#ifndef TTL
#define TTL 1           /* ticks */
#endif
#ifndef MARGIN
#define MARGIN 0        /* what a client takes off its lease */
#endif
#ifndef SLOW
#define SLOW 0          /* ticks that a client's clock may miss while one lease runs */
#endif
#ifndef GRANTS
#define GRANTS 3        /* grants of one reign, claims included */
#endif
#ifndef STREAMS
#define STREAMS NR      /* streams of a client */
#endif
#ifndef PIPE
#define PIPE 1          /* records of a writer that are not acknowledged */
#endif
#ifndef COPIES
#define COPIES PIPE     /* of them, copies on the wire or in a leader's log */
#endif
#ifndef CAP
#define CAP 2           /* messages on their way, each direction of each client */
#endif
#ifndef MODES
#define MODES 2         /* 1: exclusive only, 2: shared too */
#endif

#define None 0
#define Shared 1
#define Exclusive 2

mtype = { Hello, Claims, Release, Acquire, Welcome, Claimed, Grant, Revoke };

/* kind, epoch of the server's end, stream, number, mode, index */
chan up[NC] = [CAP] of { mtype, byte, byte, byte, byte, byte };
chan down[NC] = [CAP] of { mtype, byte, byte, byte, byte, byte };

/* ---- the replicated state (blockstore/state.go) ---- */
typedef writer {
	bit live;
	unsigned gen : 1;       /* stands for the writer's number: which session of this file server */
	unsigned epoch : 2;
	unsigned seq : 3;
	byte lastWrite;
	unsigned applied : 3    /* ghost: records applied, in truth */
}
writer W[NC];
byte applied = 1;               /* index of the last command that changed something (others would only leave gaps) */
byte stateEpoch = 1;
byte leader = 1;                /* raft's, by term; BeginEpoch{leader} is in the log once stateEpoch == leader */
byte block = 0;                 /* ghost: index of the newest record applied */

/* ghost: which writes the block holds, held before its newest record, and must hold since they are acknowledged: a bit for each write */
byte content = 0;
byte before = 0;
byte acked = 0;
#define own(c) (15 << (4 * (c)))        /* the bits of a client's writes */

/* records on the wire, or in a leader's log and not committed */
typedef copy {
	bit used;
	unsigned gen : 1;
	unsigned epoch : 2;
	unsigned seq : 3;
	byte has                /* ghost: the writes in it: new ones of its writer's, and of the other's those in the block that they were made to */
}
copy wire[NC * COPIES];
#define WIRE(c, w) wire[(c) * COPIES + (w)]

/* ---- the lock service (table.go, server_reign.go) ---- */
typedef session {
	bit known;
	unsigned gen : 1;
	byte stream;
	bit awaited;
	bit ready;
	bit claiming;           /* claims != nil */
	unsigned expires : 3;   /* ticks left */
	bit doomed;
	bit fencing;
	bit over;
	byte end;
	unsigned hold : 2;
	byte number;
	unsigned revoking : 2;  /* 1: to None, 2: to Shared */
	unsigned queue : 2;     /* mode waited for */
	bit given               /* IMPLICIT: given up out of the session's range */
}
typedef reign {
	byte number;            /* of the newest grant */
	byte index;             /* of the lock: greatest that any release brought */
	byte common;            /* of those not in the table */
	bit absent;             /* FORGET: the lock has no entry */
	session s[NC]
}
reign R[NR + 1];

/* ---- the clerk and its file server (clerk*.go, fs) ---- */
typedef clerk {
	bit ended;
	unsigned gen : 1;
	unsigned epoch : 2;
	byte newest;
	unsigned mode : 2;
	byte number;
	byte minIndex;
	unsigned revoke : 2;    /* running: 1 to None, 2 to Shared */
	unsigned asked : 2;
	unsigned claimed : 2;
	unsigned conn : 2;      /* 0 none, 1 hello sent, 2 claims sent, 3 attached */
	unsigned at : 2;        /* reign of the stream */
	byte stream;
	unsigned lease : 3;     /* ticks left, as counted here */
	unsigned drift : 2;     /* ticks that its clock missed since the lease was renewed */
	unsigned sent : 2;      /* a keep-alive is out: 1 on its way, 2 its answer is */
	unsigned age : 3;       /* ticks since it was sent */
	bit given;
	bit dirty;              /* changed, in no record yet */
	unsigned inflight : 2;  /* records not acknowledged */
	unsigned seq : 3;       /* of the last record acknowledged */
	byte lastIndex;
	byte floor;
	unsigned writes : 3;
	bit untold;             /* IMPLICIT: given up while not attached */
	bit stale;              /* ghost: the cached block is not the newest */
	byte seen;              /* ghost: the other's writes in it */
	byte made;              /* ghost: own writes in no record yet */
	byte rec[PIPE];         /* ghost: has, of the records not acknowledged */
#ifdef READOP
	bit op                  /* an operation has the lock pinned */
#endif
}
clerk C[NC];

bit anyAsked = 0;
#ifdef TICKS
byte ticks = 0;         /* bounded in the largest run alone */
#endif
byte faults = FAULTS;

mtype k;
byte e, st, n, m, x, i, g, ep, sq, h;

#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define other(c) (1 - (c))

/* ---- what may be answered, and the invariants ---- */

#ifdef NO_LEASE_LOOK
#define leased(c) true
#else
#define leased(c) (C[c].lease > 0)
#endif
#define pinnable(c) (C[c].revoke == 0)
#define mayRead(c)  (!C[c].ended && C[c].mode >= Shared && pinnable(c) && leased(c))
#define mayWrite(c) (!C[c].ended && C[c].mode == Exclusive && pinnable(c) && leased(c))
/* the session's dirty data is not lost (yet): its writer is live */
#define alive(c)    (!C[c].ended && W[c].live && W[c].gen == C[c].gen)
#define unapplied(c) (alive(c) && (C[c].dirty || C[c].seq + C[c].inflight > W[c].seq))

#define ONE_WRITER (!(mayWrite(0) && mayRead(1)) && !(mayWrite(1) && mayRead(0)))
#define fresh(c) (!C[c].stale && !unapplied(other(c)))
#define FRESH_READ (!(mayRead(0) && !fresh(0)) && !(mayRead(1) && !fresh(1)))
#define NONE_LOST ((acked & ~content) == 0)

/* ---- the replicated state machine (state_apply.go) ---- */

inline applyFence(c) {
	applied++;
	W[c].live = 0;
#ifndef NO_FENCE_CHECK
	W[c].epoch = 0; W[c].seq = 0; W[c].lastWrite = 0; W[c].applied = 0
#endif
}

/* write: the checks in the code's order. x: index of the answer, 0 refused */
inline applyWrite(c) {
	x = 0;
	if
#ifndef NO_FENCE_CHECK
	:: !(W[c].live && W[c].gen == g) -> printf("   refused: dead writer\n")
#endif
	:: else ->
		if
#ifndef NO_SEQ_CHECK
		:: sq <= W[c].seq ->
#ifdef NO_DONE_INDEX
			x = 1
#else
			x = MAX(W[c].lastWrite, 1)
#endif
#endif
#ifndef NO_EPOCH_CHECK
		:: sq > W[c].seq && (ep != stateEpoch || W[c].epoch != stateEpoch) -> printf("   refused: epoch\n")
		:: sq > W[c].seq + 1 && ep == stateEpoch && W[c].epoch == stateEpoch ->
#else
		:: sq > W[c].seq + 1 ->
#endif
#ifdef NO_GAP_CHECK
			applyRecord(c)
#else
			printf("   refused: gap\n")
#endif
		:: else -> applyRecord(c)
		fi
	fi
}
inline applyRecord(c) {
	applied++;
	printf("   applied at %d\n", applied);
#ifndef LOST_ONLY
	assert(W[c].live && W[c].gen == g);             /* FENCED: no write of a fenced writer is applied */
	assert(sq == W[c].applied + 1);                 /* ORDER: each once, in order */
#endif
	before = content; content = (content & own(c)) | h;
	W[c].applied = sq; W[c].seq = sq; W[c].lastWrite = applied; block = applied; x = applied;
	C[other(c)].stale = (C[other(c)].mode != None -> 1 : 0)
}

/* ---- the lock table ---- */

#define sess R[r].s[c]
#define canGrant(a, b) (R[r].s[a].queue != None && grants && !R[r].s[a].doomed && !R[r].s[a].over && fits(R[r].s[a].queue, R[r].s[b].hold) && \
	len(down[a]) < CAP && R[r].number < GRANTS)
#define peer R[r].s[other(c)]
#ifdef NO_STREAM_SERVER
#define liveStream(c) (sess.known && sess.stream != 0 && !sess.doomed && !sess.over)
#else
#define liveStream(c) (sess.known && sess.stream == st && st != 0 && !sess.doomed && !sess.over)
#endif
#ifdef NO_AWAIT
#define grants true
#else
#define grants (!R[r].s[0].awaited && !R[r].s[1].awaited)
#endif
#define fits(a, b) ((a) == None || (b) == None || ((a) == Shared && (b) == Shared))
#define stopped(c) (sess.doomed || sess.over || fencingStops(c))
#ifdef NO_FENCING_FLAG
#define fencingStops(c) false
#else
#define fencingStops(c) sess.fencing
#endif

inline forgetSession(c) {
	sess.known = 0; sess.stream = 0; sess.awaited = 0; sess.ready = 0; sess.claiming = 0; sess.expires = 0; sess.doomed = 0;
	sess.fencing = 0; sess.over = 0; sess.end = 0; sess.hold = None; sess.number = 0; sess.revoking = 0; sess.queue = None;
	sess.gen = 0; sess.given = 0
}
inline entry() {
#ifdef FORGET
	if
	:: R[r].absent -> R[r].absent = 0; R[r].index = R[r].common
	:: else
	fi
#else
	skip
#endif
}
/* free: what a fenced session held is given away */
inline free(c) {
	if
	:: sess.ready -> R[r].common = MAX(R[r].common, sess.end)
	:: else -> R[r].common = MAX(R[r].common, sess.end); R[r].index = MAX(R[r].index, sess.end)
	fi;
	if
	:: sess.hold > None -> R[r].index = MAX(R[r].index, sess.end)
	:: else
	fi;
	forgetSession(c)
}
inline raiseIndex(v) {
#ifdef LAST_INDEX
	R[r].index = v
#else
	R[r].index = MAX(R[r].index, v)
#endif
}
inline renumber(c) {
	R[r].number++; sess.number = R[r].number; sess.revoking = 0
}

/* settleClaims: m mode claimed, x floor, n given */
inline settleClaims(c) {
	sess.claiming = 0;
#ifdef NO_FLOOR
	x = 0;
#endif
	R[r].common = MAX(R[r].common, x);
#ifdef IMPLICIT
	if
	:: c == 0 -> sess.given = sess.given | n
	:: else
	fi;
#endif
	sess.revoking = 0;
	if
	:: !sess.ready ->
		R[r].index = MAX(R[r].index, x);
		sess.ready = 1;
#ifdef IMPLICIT
		if
		:: c == 0 && !sess.given && peer.hold == None -> sess.hold = Exclusive; sess.number = 0      /* ownClaimed */
		:: c == 0 && !sess.given && peer.hold != None -> sess.doomed = 1
		:: else
		fi;
#endif
		if
		:: m != None && !fits(m, peer.hold) -> sess.doomed = 1; m = None
		:: m != None && fits(m, peer.hold) -> entry(); sess.hold = m; renumber(c)
		:: else
		fi
	:: else ->
#ifdef IMPLICIT
		if
		:: sess.hold != None && sess.number == 0 && c == 0 && !sess.given -> skip       /* held by the range, not claimed one by one */
		:: else ->
#endif
#ifndef NO_SETTLE
		if
		:: m < sess.hold -> R[r].index = MAX(R[r].index, x); sess.hold = m;
			if
			:: m == None -> sess.number = 0
			:: else
			fi
		:: else
		fi;
#endif
		if
		:: m != None && sess.hold != m -> sess.doomed = 1; m = None
		:: m != None && sess.hold == m -> R[r].index = MAX(R[r].index, x); renumber(c)
		:: else
		fi
#ifdef IMPLICIT
		fi
#endif
	fi;
	sess.awaited = 0;
	if
	:: sess.doomed
	:: else -> down[c]!Claimed, r, st, (m != None -> sess.number : 0), m, 0
	fi;
	m = 0; x = 0; n = 0
}

/* ---- one message to the server (admit, handle) ---- */
inline serve(c) {
	d_step { len(down[c]) < CAP && !canGrant(0, 1) && !canGrant(1, 0) && up[c]??[k, eval(r), st, n, m, x] ->
	up[c]??k, eval(r), st, n, m, x;
	printf("server %d takes %e of %d (stream %d number %d mode %d index %d)\n", r, k, c, st, n, m, x);
	if
	:: k == Hello && r == leader && stateEpoch == r && W[c].live && W[c].gen == m && (!sess.known || sess.gen == m) ->
		W[c].epoch = r;                                         /* AttachWriter */
		if
		:: !sess.known -> sess.known = 1; sess.gen = m; sess.expires = TTL      /* Expect */
		:: else
		fi;
		if
		:: stopped(c) -> printf("   refused\n")
		:: else -> sess.stream = st; sess.claiming = 1; sess.queue = None; sess.expires = TTL;
			down[c]!Welcome, r, st, 0, 0, 0
		fi
	:: k == Claims && liveStream(c) && sess.claiming -> settleClaims(c)
	:: k == Release && liveStream(c) && sess.ready ->
		entry();
		raiseIndex(x);
		if
#ifdef NO_NUMBER_SERVER
		:: sess.hold > m ->
#else
		:: sess.hold > m && sess.number == n ->
#endif
			sess.hold = m; sess.revoking = 0;
			if
			:: m == None -> sess.number = 0
			:: else
			fi;
#ifdef IMPLICIT
			if
			:: c == 0 -> sess.given = 1
			:: else
			fi
#endif
		:: else -> printf("   not the current grant\n")
		fi
	:: k == Acquire && liveStream(c) && sess.ready -> sess.queue = MAX(sess.queue, m)
	:: else -> printf("   dropped\n")
	fi;
	k = 0; st = 0; n = 0; m = 0; x = 0
	}
}

/* ---- what a reign does by itself ---- */
inline grant(c) {
	d_step {
		canGrant(c, other(c)) ->
		entry();
		renumber(c);
		sess.hold = MAX(sess.hold, sess.queue); sess.queue = None;
#ifdef IMPLICIT
		if
		:: c == 0 -> sess.given = 1
		:: else -> R[r].s[0].given = 1
		fi;
#endif
		printf("server %d grants %d to %d, mode %d, index %d\n", r, sess.number, c, sess.hold, R[r].index);
		down[c]!Grant, r, sess.stream, sess.number, sess.hold, R[r].index
	}
}
/* what c waits for is asked back of the other */
#ifdef NO_CLAIM_REST
/* the revoke goes into the message with Claimed, of which the client takes nothing else */
#define merged(c) (down[other(c)]??[Claimed, eval(r), eval(peer.stream), n, m, x])
#else
#define merged(c) false
#endif
inline revokeFor(c) {
	d_step {
		sess.queue != None && grants && !sess.doomed && !fits(sess.queue, peer.hold) && len(down[other(c)]) < CAP &&
		(peer.revoking == 0 || (peer.revoking == 2 && sess.queue == Exclusive)) ->
		peer.revoking = (sess.queue == Exclusive -> 1 : 2);
		printf("server %d revokes %d of %d to %d\n", r, peer.number, other(c), peer.revoking - 1);
		if
		:: peer.stream != 0 && !peer.claiming && !peer.doomed && !peer.over && !merged(c) ->
			down[other(c)]!Revoke, r, peer.stream, peer.number, peer.revoking - 1, 0
		:: else
		fi
	}
}
#ifdef NO_PROOF
#define proven(r) true
#else
#define proven(r) (r == leader)
#endif
/* Received, ProveLeadership, Renew. The answer may stay on its way as long as it likes. */
inline renew(c) {
	d_step {
		C[c].sent == 1 && C[c].at == r && C[c].stream == sess.stream && sess.known && sess.ready && !stopped(c) && proven(r) ->
		printf("server %d renews %d\n", r, c);
		sess.expires = TTL; C[c].sent = 2
	}
}
#ifdef NO_LEASE_OVER
#define leaseOver(c) true
#else
#define leaseOver(c) (sess.expires == 0)
#endif
inline doom(c) {
	/* doom: a revoke was not answered in time */
	d_step { sess.revoking != 0 && !sess.doomed && !sess.over -> printf("server %d dooms %d\n", r, c); sess.doomed = 1; sess.queue = None; }
}
inline expire(c) {
	/* Tick: the lease ran out. -DNO_LEASE_OVER: a doomed session is fenced at once */
	d_step { sess.known && !sess.over && !sess.fencing && (sess.expires == 0 || (sess.doomed && leaseOver(c))) ->
		printf("server %d proposes the fence of %d\n", r, c); sess.fencing = 1 }
}
inline fence(c) {
#ifdef NO_FENCE
	d_step { sess.fencing && !sess.over -> printf("server %d gives %d up\n", r, c); sess.over = 1; sess.stream = 0; sess.end = applied }
#else
	d_step { sess.fencing && !sess.over && r == leader && stateEpoch == r ->
		printf("server %d fences %d at %d\n", r, c, applied + 1);
		if
		:: W[c].live && W[c].gen == sess.gen -> applyFence(c)
		:: else
		fi;
		sess.over = 1; sess.stream = 0; sess.queue = None; sess.end = applied }
#endif
}
inline freed(c) {
	d_step { sess.over && leaseOver(c) -> printf("server %d frees what %d held\n", r, c); free(c) }
}
#ifdef FORGET
inline forget() {
	d_step { !R[r].absent && R[r].s[0].hold == None && R[r].s[1].hold == None && R[r].s[0].queue == None && R[r].s[1].queue == None ->
		printf("server %d forgets the lock's entry\n", r);
		R[r].absent = 1;
#ifndef NO_COMMON
		R[r].common = MAX(R[r].common, R[r].index);
#endif
		R[r].index = 0 }
}
#endif

#ifdef NO_RELEASE_EPOCH
/* a release reaches another leader than the one it was sent to */
inline misdelivered(c) {
	d_step { up[c]?[Release, e, st, n, m, x] && e != r && sess.known && sess.ready && !sess.doomed && !sess.over ->
	up[c]?Release, e, st, n, m, x;
	printf("server %d takes the release of %d meant for %d (number %d mode %d index %d)\n", r, c, e, n, m, x);
	R[r].index = MAX(R[r].index, x);
	if
	:: sess.hold > m && sess.number == n -> sess.hold = m; sess.revoking = 0;
		if
		:: m == None -> sess.number = 0
		:: else
		fi
	:: else
	fi;
	e = 0; st = 0; n = 0; m = 0; x = 0
	}
}
#endif

proctype Server(byte r) {
	do
	:: serve(0)
	:: serve(1)
	:: grant(0)
	:: grant(1)
	:: revokeFor(0)
	:: revokeFor(1)
	:: renew(0)
	:: renew(1)
#ifdef DOOM
	:: doom(0)
	:: doom(1)
#endif
	:: expire(0)
	:: expire(1)
	:: fence(0)
	:: fence(1)
	:: freed(0)
	:: freed(1)
#ifdef FORGET
	:: forget()
#endif
#ifdef NO_RELEASE_EPOCH
	:: misdelivered(0)
	:: misdelivered(1)
#endif
	od
}

/* ---- the clerk and the file server ---- */

#ifdef NO_OWN_INDEX
#define readAt(c) C[c].minIndex
#else
#ifdef NO_MIN_INDEX
#define readAt(c) C[c].lastIndex
#else
#define readAt(c) MAX(C[c].minIndex, C[c].lastIndex)
#endif
#endif

#define current(c) (C[c].conn == 3 && e == C[c].at && st == C[c].stream)
#ifdef NO_EPOCH_CLIENT
#define accepts(c) (C[c].conn == 3)
#else
#ifdef NO_STREAM_CLIENT
#define accepts(c) (C[c].conn == 3 && e == C[c].epoch)
#else
#ifdef NO_LEAVE
#define accepts(c) (current(c) || (C[c].conn == 2 && e != C[c].at))
#else
#define accepts(c) current(c)
#endif
#endif
#endif

#ifdef NO_NUMBER_CLIENT
#define newer(c) true
#else
#define newer(c) (n > C[c].newest)
#endif

#ifdef READOP
#define unpinned(c) (!C[c].op)
#else
#define unpinned(c) true
#endif
#ifdef NO_FLUSH
#define flushed(c) true
#else
#define flushed(c) (!C[c].dirty && C[c].inflight == 0)
#endif

inline tellRelease(c) {
	up[c]!Release, C[c].at, C[c].stream, C[c].number, C[c].mode, C[c].floor
}

/* attach, claim, take: one message to the client */
inline take(c) {
	d_step { len(up[c]) < CAP && len(down[c]) > 0 ->
	down[c]?k, e, st, n, m, x;
	printf("client %d takes %e of %d (stream %d number %d mode %d index %d)\n", c, k, e, st, n, m, x);
	if
	:: C[c].ended -> printf("   dropped\n")
	:: else ->
		if
		:: k == Welcome && C[c].conn == 1 && e == C[c].at && st == C[c].stream && e >= C[c].epoch ->
			if
			:: e > C[c].epoch -> C[c].epoch = e; C[c].newest = 0
			:: else
			fi;
			C[c].conn = 2; C[c].sent = 0; C[c].age = 0; C[c].asked = None; C[c].untold = 0;
#ifdef IMPLICIT
			C[c].claimed = (C[c].number == 0 && !C[c].given -> None : C[c].mode);
#else
			C[c].claimed = C[c].mode;
#endif
			up[c]!Claims, e, st, C[c].given, C[c].claimed, C[c].floor
		:: k == Claimed && C[c].conn == 2 && e == C[c].at && st == C[c].stream ->
			C[c].conn = 3;
			if
			:: C[c].claimed != None ->
				C[c].number = n; C[c].newest = MAX(C[c].newest, n);
				if
				:: C[c].mode < C[c].claimed -> tellRelease(c)
				:: else
				fi
			:: else
#ifdef IMPLICIT
#ifndef NO_UNTOLD
				if
				:: C[c].untold -> tellRelease(c)
				:: else
				fi
#endif
#endif
			fi;
			C[c].claimed = None; C[c].untold = 0;
			if
			:: C[c].mode == None -> C[c].number = 0
			:: else
			fi
		:: k == Grant && accepts(c) && newer(c) ->
			C[c].newest = MAX(C[c].newest, n);
#ifdef IMPLICIT
			if
			:: c == 0 -> C[c].given = 1
			:: else
			fi;
#endif
			C[c].mode = m; C[c].number = n; C[c].minIndex = MAX(C[c].minIndex, x);
			if
			:: !C[c].dirty && C[c].inflight == 0 -> load(c)
			:: else
			fi;
			if
			:: C[c].asked <= m -> C[c].asked = None
			:: else
			fi
		:: k == Revoke && accepts(c) && C[c].number == n && C[c].mode > m ->
			if
			:: C[c].revoke == 0 || m == None -> C[c].revoke = m + 1
			:: else
			fi
		:: else -> printf("   dropped\n")
		fi
	fi;
	k = 0; e = 0; st = 0; n = 0; m = 0; x = 0
	}
}

inline keepAlive(c) {
	d_step { !C[c].ended && C[c].conn == 3 && C[c].sent == 0 && C[c].lease < TTL - MARGIN ->
		C[c].sent = 1; C[c].age = 0;
		printf("client %d sends a keep-alive\n", c) }
}
inline renewed(c) {
	d_step { C[c].sent == 2 ->
		printf("client %d is renewed, of a keep-alive sent %d ticks ago\n", c, C[c].age);
#ifdef FROM_ANSWER
		C[c].lease = TTL - MARGIN;
#else
		C[c].lease = MAX(C[c].lease, (TTL - MARGIN > C[c].age -> TTL - MARGIN - C[c].age : 0));
#endif
		C[c].sent = 0; C[c].age = 0 }
}
#if defined(IMPLICIT) || defined(HELD)
#define mayAsk(c) true
#else
#define mayAsk(c) (c == 0 || anyAsked)  /* the two are alike: let 0 be the first */
#endif
inline ask(c, want) {
	d_step { !C[c].ended && C[c].conn == 3 && C[c].mode < want && C[c].asked < want && C[c].revoke == 0 && len(up[c]) < CAP &&
		(want == Shared || C[c].writes < OPS) && mayAsk(c) ->
		printf("client %d asks for mode %d\n", c, want);
		C[c].asked = want; anyAsked = 1;
		up[c]!Acquire, C[c].at, C[c].stream, 0, want, 0 }
}
/* The block is read at a replica when the lock comes, and again after it was dropped from the cache. */
inline load(c) {
	C[c].stale = (readAt(c) < block -> 1 : 0);
	C[c].seen = (C[c].stale -> before : content) & own(other(c))
}
inline reload(c) {
	d_step { !C[c].ended && C[c].mode >= Shared && pinnable(c) && !C[c].dirty && C[c].inflight == 0 && !C[c].stale && readAt(c) < block ->
		printf("client %d drops the cached block, and reads it at a replica of index %d\n", c, readAt(c));
		load(c) }
}
#ifdef WRITER0
#define isWriter(c) (c == 0)    /* the other asks for the lock, exclusive too, and reads */
#else
#define isWriter(c) true
#endif
inline write(c) {
	d_step { mayWrite(c) && C[c].writes < OPS && isWriter(c) ->
		printf("client %d writes\n", c);
		C[c].dirty = 1; C[c].made = C[c].made | (1 << (4 * (c) + C[c].writes)); C[c].writes++ }
}
/* Submit and the sink's stream: the next record, or one not acknowledged again */
inline submit(c, w) {
	d_step { !C[c].ended && C[c].dirty && C[c].inflight < PIPE && !WIRE(c, w).used && C[c].epoch > 0 ->
		C[c].rec[C[c].inflight] = C[c].seen | C[c].made; C[c].made = 0;
		C[c].dirty = 0; C[c].inflight++;
		WIRE(c, w).used = 1; WIRE(c, w).has = C[c].rec[C[c].inflight - 1]; WIRE(c, w).gen = C[c].gen; WIRE(c, w).epoch = C[c].epoch; WIRE(c, w).seq = C[c].seq + C[c].inflight;
		printf("client %d sends record %d in epoch %d\n", c, C[c].seq + C[c].inflight, C[c].epoch) }
}
inline resend(c, w, p) {
	d_step { !C[c].ended && C[c].inflight >= p && !WIRE(c, w).used && C[c].epoch > 0 ->
		WIRE(c, w).used = 1; WIRE(c, w).has = C[c].rec[p - 1];
		WIRE(c, w).gen = C[c].gen; WIRE(c, w).epoch = C[c].epoch; WIRE(c, w).seq = C[c].seq + p;
		printf("client %d sends record %d again, in epoch %d\n", c, C[c].seq + p, C[c].epoch) }
}
/* giveUp, released */
inline released(c) {
	d_step { !C[c].ended && C[c].revoke != 0 && len(up[c]) < CAP && flushed(c) && unpinned(c) ->
		printf("client %d has given up to mode %d\n", c, C[c].revoke - 1);
		C[c].mode = C[c].revoke - 1; C[c].revoke = 0;
		C[c].floor = MAX(C[c].floor, C[c].lastIndex);
		if
		:: C[c].conn == 3 -> up[c]!Release, C[c].at, C[c].stream, C[c].number, C[c].mode, C[c].lastIndex
		:: else
#ifdef IMPLICIT
			if
			:: c == 0 && C[c].number == 0 -> C[c].untold = 1
			:: else
			fi
#endif
		fi;
#ifdef IMPLICIT
		if
		:: c == 0 -> C[c].given = 1
		:: else
		fi;
#endif
		if
		:: C[c].mode == None -> C[c].stale = 0; C[c].seen = 0; C[c].number = 0; C[c].minIndex = 0
		:: else
		fi }
}
/* evictLocked: a lock not used for long is given back unasked */
inline giveBack(c) {
	d_step { !C[c].ended && C[c].conn == 3 && C[c].mode != None && C[c].number != 0 && C[c].revoke == 0 && C[c].asked == None ->
		printf("client %d gives its lock back\n", c);
		C[c].revoke = 1 }
}
inline breaks(c) {
	d_step { !C[c].ended && C[c].conn != 0 && C[c].stream < STREAMS ->
		printf("the stream of client %d breaks\n", c);
		C[c].conn = 0; C[c].at = 0; C[c].asked = None; C[c].claimed = None; C[c].sent = 0; C[c].age = 0;
		if
		:: C[c].mode == None -> C[c].number = 0
		:: else
		fi }
}
inline connect(c) {
	d_step { !C[c].ended && C[c].conn == 0 && C[c].stream < STREAMS && stateEpoch == leader && len(up[c]) < CAP ->
		C[c].conn = 1; C[c].at = leader; C[c].stream++;
		printf("client %d says hello to %d (stream %d)\n", c, leader, C[c].stream);
		up[c]!Hello, leader, C[c].stream, 0, C[c].gen, 0 }
}
/* end: it is told that its writer is not live any more */
inline ends(c) {
	d_step { !C[c].ended && !(W[c].live && W[c].gen == C[c].gen) ->
		printf("client %d learns that its session is over\n", c);
		C[c].ended = 1; C[c].epoch = 0; C[c].newest = 0; C[c].mode = None; C[c].number = 0; C[c].minIndex = 0; C[c].revoke = 0;
		C[c].asked = None; C[c].claimed = None; C[c].conn = 0; C[c].at = 0; C[c].lease = 0; C[c].sent = 0; C[c].age = 0;
		C[c].given = 0; C[c].stale = 0; C[c].untold = 0;
#ifdef REPLAY
		C[c].dirty = C[c].dirty || C[c].inflight > 0;
		C[c].made = C[c].made | (C[c].rec[0] & own(c));
#else
		C[c].dirty = 0; C[c].made = 0; C[c].seen = 0;
#endif
		C[c].rec[0] = 0; C[c].rec[PIPE - 1] = 0;
		C[c].inflight = 0; C[c].seq = 0; C[c].lastIndex = 0; C[c].floor = 0 }
}
/* a new session: OpenWriter. (Of client 0 alone, which keeps the run small.) */
inline reopen(c) {
	d_step { c == 0 && C[c].ended && C[c].gen + 1 < SESSIONS && stateEpoch == leader && !R[leader].s[c].known ->
		printf("client %d opens a new session\n", c);
		applied++;
		C[c].ended = 0; C[c].gen = 1;
		W[c].live = 1; W[c].gen = 1; W[c].epoch = 0; W[c].seq = 0; W[c].lastWrite = 0; W[c].applied = 0 }
}

#ifdef READOP
/* an operation in two steps: it has the lock pinned and the block at hand, then it answers */
inline readOp(c) {
	d_step { mayRead(c) && !C[c].op -> printf("client %d begins to answer\n", c); C[c].op = 1 }
}
#endif

proctype Client(byte c) {
	do
	:: take(c)
	:: keepAlive(c)
	:: renewed(c)
#if MODES == 2
	:: ask(c, Shared)
#endif
	:: ask(c, Exclusive)
	:: reload(c)
#ifndef NO_WRITES
	:: write(c)
#endif
	:: submit(c, 0)
	:: resend(c, 0, 1)
#if COPIES > 1
	:: submit(c, 1)
	:: resend(c, 1, 1)
#endif
#if PIPE > 1
	:: resend(c, 0, 2)
#if COPIES > 1
	:: resend(c, 1, 2)
#endif
#endif
	:: released(c)
#ifdef EVICT
	:: giveBack(c)
#endif
#if STREAMS > 1
	:: breaks(c)
	:: connect(c)
#endif
	:: ends(c)
#if SESSIONS > 1
	:: reopen(c)
#endif
#ifdef READOP
	:: readOp(c)
	:: d_step { C[c].op && C[c].ended -> C[c].op = 0 }
	:: d_step { C[c].op &&
#ifdef LOOK_AT_BEGIN
		true
#else
		C[c].lease > 0
#endif
		-> printf("client %d answers\n", c);
		assert(C[c].ended || fresh(c));
		C[c].op = 0 }
#endif
	od
}

/* ---- the world: the log, the clock, the network ---- */

/* the oldest record that is not acknowledged is now */
inline acknowledged(c) {
	acked = acked | (C[c].rec[0] & own(c));
	C[c].rec[0] = (PIPE > 1 -> C[c].rec[PIPE - 1] : 0); C[c].rec[PIPE - 1] = 0
}
/* a copy is committed; answered: the answer arrives; kept: it is proposed once more */
inline deliver(c, w, answered, kept) {
	d_step { WIRE(c, w).used && (!kept || faults > 0) &&
		(!answered || (!C[c].ended && C[c].gen == WIRE(c, w).gen && C[c].inflight > 0 && WIRE(c, w).seq == C[c].seq + 1)) ->
		printf("record %d of %d is committed, in epoch %d\n", WIRE(c, w).seq, c, WIRE(c, w).epoch);
		g = WIRE(c, w).gen; ep = WIRE(c, w).epoch; sq = WIRE(c, w).seq; h = WIRE(c, w).has;
		applyWrite(c);
		if
		:: answered && x > 0 -> acknowledged(c); C[c].seq++; C[c].inflight--; C[c].lastIndex = MAX(C[c].lastIndex, x); printf("   acknowledged\n")
		:: else
		fi;
		if
		:: kept -> faults--; printf("   and proposed once more\n")
		:: else -> WIRE(c, w).used = 0; WIRE(c, w).gen = 0; WIRE(c, w).epoch = 0; WIRE(c, w).seq = 0; WIRE(c, w).has = 0
		fi;
		x = 0; g = 0; ep = 0; sq = 0; h = 0 }
}
inline elect() {
	d_step { leader < NR && stateEpoch == leader -> leader++; printf("%d is elected\n", leader) }
}
/* a fence that an older leader proposed is committed by the new one, before BeginEpoch */
inline inherit(c) {
	d_step { stateEpoch < leader && R[stateEpoch].s[c].fencing && W[c].live && W[c].gen == R[stateEpoch].s[c].gen ->
		printf("the fence of %d that %d proposed is committed at %d\n", c, stateEpoch, applied + 1);
		applyFence(c) }
}
inline expect(c) {
	if
	:: W[c].live ->
		R[leader].s[c].known = 1; R[leader].s[c].gen = W[c].gen; R[leader].s[c].awaited = 1;
#ifdef NO_TTL_AFTER
		R[leader].s[c].expires = 0
#else
		R[leader].s[c].expires = TTL
#endif
	:: else
	fi
}
/* rule: BeginEpoch is committed, the writers are taken from the state */
inline begin() {
	d_step { stateEpoch < leader ->
		applied++; stateEpoch = leader;
		printf("epoch %d begins at %d\n", leader, applied);
#ifndef NO_BEGIN_FLOOR
		R[leader].common = applied; R[leader].index = applied;
#endif
		expect(0); expect(1) }
}

inline less(v) { v = (v > 0 -> v - 1 : 0) }
inline older(c) {
	less(C[c].lease);
	C[c].age = (C[c].sent && C[c].age < TTL -> C[c].age + 1 : C[c].age)
}
#ifdef TICKS
#define mayTick (ticks < TICKS)
#else
#define mayTick true
#endif
inline tick(slow0, slow1) {
	d_step { mayTick && (!slow0 || C[0].drift < SLOW) && (!slow1 || C[1].drift < SLOW) ->
		printf("time goes on\n");
#ifdef TICKS
		ticks++;
#endif
		if
		:: slow0 -> C[0].drift++
		:: else -> older(0)
		fi;
		if
		:: slow1 -> C[1].drift++
		:: else -> older(1)
		fi;
		i = 1;
		do
		:: i <= NR -> less(R[i].s[0].expires); less(R[i].s[1].expires); i++
		:: else -> break
		od;
		i = 0 }
}

inline lost(q) {
	d_step { faults > 0 && len(q) > 0 -> q?k, e, st, n, m, x; faults--; printf("%e is lost (stream %d number %d)\n", k, st, n);
		k = 0; e = 0; st = 0; n = 0; m = 0; x = 0 }
}
/* one comes now and once more later; delayed: only later */
inline doubled(q) {
	d_step { faults > 0 && len(q) > 0 && len(q) < CAP -> q?<k, e, st, n, m, x>; q!k, e, st, n, m, x; faults--; printf("%e is doubled (stream %d number %d)\n", k, st, n);
		k = 0; e = 0; st = 0; n = 0; m = 0; x = 0 }
}
inline delayed(q) {
	d_step { faults > 0 && len(q) > 1 -> q?k, e, st, n, m, x; q!k, e, st, n, m, x; faults--; printf("%e is delayed (stream %d number %d)\n", k, st, n);
		k = 0; e = 0; st = 0; n = 0; m = 0; x = 0 }
}

proctype World() {
	do
	:: deliver(0, 0, true, false)
	:: deliver(0, 0, false, false)
	:: deliver(1, 0, true, false)
	:: deliver(1, 0, false, false)
#if COPIES > 1
	:: deliver(0, 1, true, false)
	:: deliver(0, 1, false, false)
	:: deliver(1, 1, true, false)
	:: deliver(1, 1, false, false)
#endif
#ifndef NO_TIME
	:: tick(false, false)
#endif
#if SLOW > 0
	:: tick(true, false)
	:: tick(false, true)
#endif
#if NR > 1
	:: elect()
	:: inherit(0)
	:: inherit(1)
	:: begin()
#endif
#if FAULTS > 0
	:: deliver(0, 0, true, true)
	:: deliver(0, 0, false, true)
	:: deliver(1, 0, true, true)
	:: deliver(1, 0, false, true)
#ifndef RECORDS_ONLY
	:: doubled(up[0])
	:: doubled(up[1])
	:: doubled(down[0])
	:: doubled(down[1])
#ifndef DOUBLED_ONLY
	:: lost(up[0])
	:: lost(up[1])
	:: lost(down[0])
	:: lost(down[1])
	:: delayed(up[0])
	:: delayed(up[1])
	:: delayed(down[0])
	:: delayed(down[1])
#endif
#endif
#endif
	od
}

/* A revoke that the server waits for, that is not on its way, and of which the client knows nothing: it would cost the session. */
#define unanswered(c) (R[leader].s[c].revoking != 0 && !R[leader].s[c].doomed && !R[leader].s[c].over && !R[leader].s[c].claiming && \
	C[c].conn == 3 && C[c].at == leader && C[c].stream == R[leader].s[c].stream && C[c].revoke == 0 && !C[c].ended && \
	len(up[c]) == 0 && len(down[c]) == 0)

proctype Monitor() {
	do
	:: d_step { !NONE_LOST -> printf("VIOLATED: no acknowledged write lost\n"); assert(false) }
#ifndef LOST_ONLY
	:: d_step { !ONE_WRITER -> printf("VIOLATED: one writer\n"); assert(false) }
	:: d_step { !FRESH_READ -> printf("VIOLATED: fresh read\n"); assert(false) }
#endif
#ifdef ANSWERED
	:: d_step { unanswered(0) || unanswered(1) -> printf("VIOLATED: a revoke is lost\n"); assert(false) }
#endif
	od
}

init {
	d_step {
		i = 0;
		do
		:: i < NC ->
			W[i].live = 1; W[i].epoch = 1;
			R[1].s[i].known = 1; R[1].s[i].stream = 1; R[1].s[i].ready = 1; R[1].s[i].expires = TTL;
			C[i].epoch = 1; C[i].conn = 3; C[i].at = 1; C[i].stream = 1; C[i].lease = TTL - MARGIN;
			i++
		:: else -> break
		od;
		i = 0;
#ifdef IMPLICIT
		C[0].mode = Exclusive; R[1].s[0].hold = Exclusive;
#endif
#ifdef HELD
		C[0].mode = Exclusive; C[0].number = 1; C[0].newest = 1; C[0].minIndex = 1;
		R[1].s[0].hold = Exclusive; R[1].s[0].number = 1; R[1].number = 1;
#endif
		R[1].index = 1; R[1].common = 1
	}
	atomic {
		run World();
		run Monitor();
		run Client(0);
		run Client(1);
		run Server(1);
#if NR > 1
		run Server(2);
#endif
#if NR > 2
		run Server(3);
#endif
	}
}
