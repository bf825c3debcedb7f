/* guests: two guests on sockets of a switch; one sends 1500-byte frames, the other counts them.
 *   guests stream PATH SECONDS            both connect to PATH
 *   guests dgram SW1 VM1 SW2 VM2 SECONDS  one sends from VM1 to SW1, the other receives from SW2 at VM2
 * Prints the received frames in thousands per second, and in Gb/s. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LEN = 1514, MANY = 43 };
static volatile int done;
static int is_stream, to, from;
static char frames[MANY * (LEN + 4)];

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static struct sockaddr_un name(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    return a;
}

static int guest(const char *peer, const char *own) {
    int s = socket(AF_UNIX, own ? SOCK_DGRAM : SOCK_STREAM, 0), room = 4 << 20;
    struct sockaddr_un a = name(peer);
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (own) {
        struct sockaddr_un me = name(own);
        unlink(own);
        if (bind(s, (void *)&me, sizeof me)) { perror(own); exit(1); }
    }
    if (connect(s, (void *)&a, sizeof a)) { perror(peer); exit(1); }
    return s;
}

/* A broadcast from this station, so that the switch knows where it is; or a frame to the other. */
static size_t frame(char *at, int dst, int src) {
    memset(at, 0, LEN + 4);
    *(unsigned *)at = htonl(LEN);
    memset(at + 4, dst ? 0 : 0xff, 6);
    if (dst) at[4] = 2, at[9] = dst;
    at[10] = 2, at[15] = src;
    at[16] = (char)0x88, at[17] = (char)0xb5; /* local experimental */
    return LEN + 4;
}

static void say(int s, int src) {
    char hello[LEN + 4];
    size_t len = frame(hello, 0, src);
    if (write(s, is_stream ? hello : hello + 4, is_stream ? len : LEN) < 0) perror("hello");
}

static void *sender(void *unused) {
    struct mmsghdr m[MANY];
    struct iovec v[MANY];
    memset(m, 0, sizeof m);
    for (int i = 0; i < MANY; i++) {
        frame(frames + i * (LEN + 4), 2, 1);
        v[i] = (struct iovec){frames + i * (LEN + 4) + 4, LEN};
        m[i].msg_hdr.msg_iov = &v[i], m[i].msg_hdr.msg_iovlen = 1;
    }
    while (!done) {
        if (!is_stream) { sendmmsg(to, m, MANY, 0); continue; }
        for (size_t sent = 0; sent < sizeof frames;) {
            ssize_t n = write(to, frames + sent, sizeof frames - sent);
            if (n <= 0) return unused;
            sent += n;
        }
    }
    return unused;
}

int main(int argc, char **argv) {
    static char room[1 << 20];
    is_stream = argc == 4 && !strcmp(argv[1], "stream");
    if (!is_stream && !(argc == 7 && !strcmp(argv[1], "dgram"))) return fprintf(stderr, "see the source\n"), 2;
    to = guest(argv[2], is_stream ? NULL : argv[3]);
    from = guest(is_stream ? argv[2] : argv[4], is_stream ? NULL : argv[5]);
    usleep(300000);
    say(to, 1), say(from, 2);
    usleep(300000);
    double secs = atof(argv[argc - 1]);
    unsigned long long bytes = 0, count = 0;
    struct mmsghdr m[MANY];
    struct iovec v[MANY];
    memset(m, 0, sizeof m);
    for (int i = 0; i < MANY; i++) {
        v[i] = (struct iovec){room + i * 2048, 2048};
        m[i].msg_hdr.msg_iov = &v[i], m[i].msg_hdr.msg_iovlen = 1;
    }
    pthread_t t;
    pthread_create(&t, NULL, sender, NULL);
    double began = now(), end = began + secs;
    while (now() < end) {
        if (is_stream) {
            ssize_t n = read(from, room, sizeof room);
            if (n <= 0) break;
            bytes += n;
        } else {
            int n = recvmmsg(from, m, MANY, MSG_WAITFORONE, NULL);
            if (n > 0) count += n;
        }
    }
    double took = now() - began;
    done = 1;
    if (is_stream) count = bytes / (LEN + 4);
    printf("%.0f thousand frames/s, %.2f Gb/s\n", count / took / 1e3, count * (double)LEN * 8 / took / 1e9);
    fflush(stdout);
    _exit(0);
}
