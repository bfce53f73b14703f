/* Tries one thing that a container must not be able to do; says "done" or why not. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static long enter(const char *path, int kind) {
    int fd = open(path, O_RDONLY);
    return fd < 0 ? -1 : setns(fd, kind);
}

static long abstract(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(fd, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

static long all_capabilities(void) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
    return syscall(SYS_capset, &head, data);
}

static long attempt(const char *what, const char *with) {
    char nothing[128] = "";
    if (!strcmp(what, "mount")) return mount("none", "/tmp", "tmpfs", 0, "");
    if (!strcmp(what, "bind")) return mount("/", "/tmp", NULL, MS_BIND, "");
    if (!strcmp(what, "remount")) return mount("none", "/proc/sys", NULL, MS_REMOUNT | MS_BIND, "");
    if (!strcmp(what, "umount")) return umount2("/proc/kcore", MNT_DETACH);
    if (!strcmp(what, "fsopen")) return syscall(430, "tmpfs", 0);
    if (!strcmp(what, "move_mount")) return syscall(429, AT_FDCWD, "/dev", AT_FDCWD, "/tmp", 0);
    if (!strcmp(what, "pivot_root")) return syscall(SYS_pivot_root, "/tmp", "/tmp");
    if (!strcmp(what, "chroot")) return chroot("/tmp");
    if (!strcmp(what, "unshare-user")) return unshare(CLONE_NEWUSER);
    if (!strcmp(what, "unshare-mount")) return unshare(CLONE_NEWNS);
    if (!strcmp(what, "clone-user")) return syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0);
    if (!strcmp(what, "setns")) return enter("/proc/1/ns/mnt", 0);
    if (!strcmp(what, "mknod-disk")) return mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0));
    if (!strcmp(what, "mknod-memory")) return mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1));
    if (!strcmp(what, "init_module")) return syscall(SYS_init_module, nothing, 1, "");
    if (!strcmp(what, "kexec_load")) return syscall(SYS_kexec_load, 0, 0, NULL, 0);
    if (!strcmp(what, "bpf")) return syscall(SYS_bpf, 0, nothing, sizeof nothing);
    if (!strcmp(what, "perf")) return syscall(SYS_perf_event_open, nothing, 0, -1, -1, 0);
    if (!strcmp(what, "userfaultfd")) return syscall(SYS_userfaultfd, 0);
    if (!strcmp(what, "io_uring")) return syscall(425, 8, nothing);
    if (!strcmp(what, "add_key")) return syscall(SYS_add_key, "user", "a", "b", 1, -3);
    if (!strcmp(what, "handle")) return syscall(SYS_open_by_handle_at, AT_FDCWD, nothing, 0);
    if (!strcmp(what, "setuid")) return setuid(0);
    if (!strcmp(what, "setgid")) return setgid(0);
    if (!strcmp(what, "capset")) return all_capabilities();
    if (!strcmp(what, "packet")) return socket(AF_PACKET, SOCK_RAW, 0);
    if (!strcmp(what, "raw")) return socket(AF_INET, SOCK_RAW, 1);
    if (!strcmp(what, "vsock")) return socket(40, SOCK_STREAM, 0);
    if (!strcmp(what, "alg")) return socket(38, SOCK_SEQPACKET, 0);
    if (!strcmp(what, "reboot")) return syscall(SYS_reboot, 0xfee1dead, 672274793, 0x1234567, 0);
    if (!strcmp(what, "sethostname")) return sethostname("other", 5);
    if (!strcmp(what, "settimeofday")) return syscall(SYS_settimeofday, nothing, NULL);
    if (!strcmp(what, "swapon")) return syscall(SYS_swapon, "/server", 0);
    if (!strcmp(what, "syslog")) return syscall(SYS_syslog, 3, nothing, sizeof nothing);
    if (!strcmp(what, "acct")) return syscall(SYS_acct, "/tmp/acct");
    if (!strcmp(what, "tiocsti")) return ioctl(0, 0x5412, "x");
    if (!strcmp(what, "abstract")) return abstract(with);
#ifdef SYS_iopl
    if (!strcmp(what, "iopl")) return syscall(SYS_iopl, 3);
#else
    if (!strcmp(what, "iopl")) { errno = EPERM; return -1; }
#endif
    errno = ENOTSUP;
    printf("there is no attempt %s\n", what);
    exit(1);
}

int main(int count, char **words) {
    if (count < 2) return 1;
    long outcome = attempt(words[1], count > 2 ? words[2] : "");
    if (outcome < 0) printf("refused: %s\n", strerror(errno));
    else printf("done\n");
    return 0;
}
