/*
 * stranger.c: a clock that is OFFSET_S seconds ahead. reproduce.sh has the loader of a tree bring it
 * into every program, whatever its environment and sandbox, to build on another day.
 */
struct timespec { long s, ns; };
struct timeval { long s, us; };
extern int *__errno_location(void);

int clock_gettime(int clock, struct timespec *now)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(228L), "D"((long)clock), "S"(now)
                     : "rcx", "r11", "memory");
    if (result < 0) {
        *__errno_location() = (int)-result;
        return -1;
    }
    /* CLOCK_REALTIME, its coarse form, and CLOCK_TAI; the others count from the machine's start. */
    if (clock == 0 || clock == 5 || clock == 11)
        now->s += OFFSET_S;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(0, &t);
    now->s = t.s;
    now->us = t.ns / 1000;
    return 0;
}

long time(long *into)
{
    struct timespec t;
    clock_gettime(0, &t);
    if (into)
        *into = t.s;
    return t.s;
}

int timespec_get(struct timespec *now, int base)
{
    return base == 1 && clock_gettime(0, now) == 0 ? base : 0;
}
