/* The scenario move-once of `wayleave check`, stated in Promela for spin: a device moves a buffer while two importers
 * write to it ROUNDS times each. Each atomic block is one step there, with the same name in its comment; what stands
 * between two steps of one actor belongs to the earlier one. Bytes, gates, fences and the lock's queue are those that
 * the scenario has; the code that handles them is not: this is a model, and there it is the shipped code itself.
 */
#ifndef ROUNDS
#define ROUNDS 2
#endif

#define NONE 255
#define MOVER 2
#define LENT 1
#define FREE 0

#define UNMAPPED 0
#define MAPPED 1
#define INVALIDATED 2

byte owner = NONE;                /* of the reservation */
chan waiting = [3] of { byte };   /* its queue: tickets in the order they were drawn */
byte place = 0;                   /* where the buffer is */
byte owners[2];                   /* of the two places */
byte bytes[4];                    /* place * 2 + importer */
byte mapping[2];
byte mappedAt[2];
bool current[2];                  /* a translation is published */
bool inside[2];
bool draining[2];                 /* a BOOKKEEP fence is pending */
byte insideAt[2];
byte written[2];
bool copying = false;             /* a KERNEL fence is pending */
byte copied = 0;                  /* blocks */
bool moved = false;
byte running = 3;

inline Submit() {
    byte u;
    u = 0;
    do
    :: u < 2 ->
        if
        :: mapping[u] == MAPPED && inside[u] -> mapping[u] = INVALIDATED; draining[u] = true
        :: mapping[u] == MAPPED && !inside[u] -> mapping[u] = UNMAPPED
        :: else
        fi;
        current[u] = false;
        u++
    :: else -> break
    od;
    place = 1;
    owners[1] = LENT;
    copying = true
}

inline GrantNext() {
    if
    :: len(waiting) > 0 -> waiting ? owner
    :: else -> owner = NONE
    fi
}

inline Unlock() {
    GrantNext();
    if
    :: owner == MOVER -> Submit(); GrantNext()
    :: else
    fi
}

inline Lock(who) {
    if
    :: owner == NONE -> owner = who
    :: else -> waiting ! who
    fi
}

proctype User(byte me) {
    bool asked = true;            /* for the lock, at the end of the step before */
    d_step { Lock(me) }
    do
    :: written[me] < ROUNDS && asked ->
        /* map */
        d_step {
            owner == me ->
            if
            :: mapping[me] == UNMAPPED -> mapping[me] = MAPPED; mappedAt[me] = place
            :: else
            fi;
            Unlock()
        };
        /* wait for the copy */
        d_step {
            !(mapping[me] == MAPPED && copying) ->
            if
            :: mapping[me] == MAPPED -> current[me] = true; asked = false
            :: else -> Lock(me)
            fi
        }
    :: written[me] < ROUNDS && !asked ->
        /* enter */
        d_step {
            if
            :: current[me] -> inside[me] = true; insideAt[me] = mappedAt[me]
            :: else -> asked = true; Lock(me)
            fi
        };
        if
        :: inside[me] ->
            /* write */
            d_step {
                assert(owners[insideAt[me]] == LENT);
                assert(bytes[insideAt[me] * 2 + me] == written[me]);
                written[me]++;
                bytes[insideAt[me] * 2 + me] = written[me]
            };
            /* leave */
            d_step {
                inside[me] = false;
                if
                :: mapping[me] == INVALIDATED -> mapping[me] = UNMAPPED; draining[me] = false
                :: else
                fi;
                if
                :: written[me] == ROUNDS -> running--
                :: written[me] < ROUNDS && !current[me] -> asked = true; Lock(me)
                :: else
                fi
            }
        :: else
        fi
    :: written[me] == ROUNDS -> break
    od
}

proctype Gpu() {
    /* move to System */
    d_step {
        if
        :: owner == NONE -> owner = MOVER; Submit(); GrantNext()
        :: else -> waiting ! MOVER
        fi
    };
    /* moved */
    d_step { moved -> running-- }
}

proctype Engine() {
    do
    :: d_step {
        copying && !draining[0] && !draining[1] ->
        bytes[2 + copied] = bytes[copied];
        copied++;
        if
        :: copied == 2 -> copying = false; owners[0] = FREE; moved = true
        :: else
        fi
       }
    :: d_step { running == 0 && !copying ->
        assert(bytes[place * 2] == written[0] && bytes[place * 2 + 1] == written[1])
       } -> break
    od
}

init {
    atomic {
        owners[0] = LENT;
        run User(0); run User(1); run Gpu(); run Engine()
    }
}
