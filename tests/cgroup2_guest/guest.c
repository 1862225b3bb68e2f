// What the guest of scripts/cgroup2-guest needs and busybox lacks. Static, and small enough to be nobody's OOM victim.
//
// By the name it is called by:
//   hog MIB         touches that much memory, a MiB at a time, and then waits for ever
//   kmsg [AFTER]    prints the records of /dev/kmsg whose number is greater than AFTER; without it, the last number
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int hog(long mebibytes) {
    for (long n = 0; n < mebibytes; n++) {
        void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            perror("hog");
            return 1;
        }
        memset(memory, 1, 1 << 20);
    }
    for (;;)
        pause();
}

static int kmsg(const char *after) {
    int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
    if (fd < 0) {
        perror("kmsg");
        return 1;
    }
    long long last = 0;
    char record[8192];
    for (;;) {
        ssize_t length = read(fd, record, sizeof record - 1);
        if (length < 0 && errno == EPIPE)
            continue; // Overwritten before it was read; the next read goes on with the oldest.
        if (length <= 0)
            break;
        record[length] = 0;
        sscanf(record, "%*d,%lld,", &last);
        if (after && last > atoll(after))
            fputs(record, stdout);
    }
    if (!after)
        printf("%lld\n", last);
    return 0;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];
    if (argc == 2 && !strcmp(name, "hog"))
        return hog(atol(argv[1]));
    if (argc <= 2 && !strcmp(name, "kmsg"))
        return kmsg(argv[1]);
    fputs("usage: hog MIB | kmsg [AFTER]\n", stderr);
    return 2;
}
