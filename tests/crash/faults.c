// Loaded with LD_PRELOAD: counts every operation on files below $FAULT_ROOT that the program asks the C library for, and lets one of them go
// wrong. The program is the real one, unchanged, and nothing of it has to be told.
//
// FAULT_LOG   a file that gets a line `number operation path` for every operation
// FAULT_AT    number of the operation, from 1, at which it happens
// FAULT_KIND  kill    the process dies before it
//             torn    half of a write is done, or another operation whole, and then the process dies
//             power   the process dies, and of every file what was never synced is lost
//             names   the same, and every name that was made or changed in a folder that was not synced since is as it was; what was removed stays so
//             eio     it fails with EIO
//             short   a write takes, or a read gives, half of the bytes and says so
//             enospc  from it on, nothing that takes space succeeds
//             erofs   from it on, the folder can only be read
// FAULT_CLOCK any value: the clock of the day jumps by decades, back and forth, before 1970 too
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { NONE, KILL, TORN, POWER, NAMES, EIO_ONCE, SHORT, FULL, READ_ONLY };
enum effect { READS, TAKES_SPACE, CHANGES };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[4096];
static size_t root_length;
static int log_fd = -1;
static long at, count;
static enum kind kind;
static int ready, clock_jumps;

static int real_open(const char *path, int flags, mode_t mode) { return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); }

__attribute__((constructor)) static void start(void) {
    const char *value = getenv("FAULT_ROOT");
    if (value && realpath(value, root)) root_length = strlen(root);
    if ((value = getenv("FAULT_AT"))) at = atol(value);
    if ((value = getenv("FAULT_LOG"))) log_fd = real_open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    clock_jumps = getenv("FAULT_CLOCK") != NULL;
    static const char *const names[] = {"none", "kill", "torn", "power", "names", "eio", "short", "enospc", "erofs"};
    if ((value = getenv("FAULT_KIND")))
        for (int i = 0; i < 9; i++)
            if (!strcmp(value, names[i])) kind = (enum kind)i;
    ready = root_length > 0;
}

static int below_root(const char *path) {
    return ready && !strncmp(path, root, root_length) && (path[root_length] == '/' || path[root_length] == 0);
}

// The path of an argument, absolute as text; 0 where it cannot be told.
static int absolute(int folder, const char *path, char *out, size_t size) {
    char base[4096];
    if (path[0] == '/') return snprintf(out, size, "%s", path) < (int)size;
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
    }
    return snprintf(out, size, "%s/%s", base, path) < (int)size;
}

static int path_of(int fd, char *out, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, size - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return 1;
}

// Whether what was never synced is lost.
static int loses(void) { return kind == POWER || kind == NAMES; }

// Names made (`from` is NULL) or changed, each in a folder that was not synced since; `kept` is the number of what stood under the name before, or 0.
static struct change { char *path, *from; dev_t dev; ino_t ino; int kept; } changes[1024];
static int change_count, kept_count;

static int beside(char *out, size_t size, const char *what, int number) {
    return snprintf(out, size, "%s/.%s-%d-%d", root, what, (int)getpid(), number) < (int)size;
}

// What lay below a path that was renamed lies below the new one.
static void move_changes(const char *from, const char *to, int until) {
    size_t length = strlen(from);
    for (int i = 0; i < until; i++) {
        char **paths[] = {&changes[i].path, &changes[i].from};
        char moved[8192];
        for (int j = 0; j < 2; j++) {
            char *path = *paths[j];
            if (!path || strncmp(path, from, length) || (path[length] && path[length] != '/')) continue;
            snprintf(moved, sizeof moved, "%s%s", to, path + length);
            *paths[j] = strdup(moved);
            free(path);
        }
    }
}

static void note_change(const char *path, const char *from, int kept) {
    char folder[8192];
    struct stat meta;
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash || change_count == 1024) return;
    *slash = 0;
    if (stat(folder, &meta)) return;
    if (from) move_changes(from, path, change_count);
    changes[change_count++] = (struct change){strdup(path), from ? strdup(from) : NULL, meta.st_dev, meta.st_ino, kept};
}

static void forget_changes(const struct stat *folder) {
    int left = 0;
    for (int i = 0; i < change_count; i++)
        if (changes[i].dev != folder->st_dev || changes[i].ino != folder->st_ino) changes[left++] = changes[i];
    change_count = left;
}

static void undo_changes(void) {
    for (int i = change_count - 1; i >= 0; i--) {
        struct change *change = &changes[i];
        char other[8192];
        if (!beside(other, sizeof other, "lost", i)) continue;
        if (syscall(SYS_renameat2, AT_FDCWD, change->path, AT_FDCWD, change->from ? change->from : other, 0)) continue;
        if (!change->from) continue;
        if (change->kept && beside(other, sizeof other, "kept", change->kept) && syscall(SYS_renameat2, AT_FDCWD, other, AT_FDCWD, change->path, 0)) {}
        move_changes(change->path, change->from, i);
    }
}

// Files with bytes that were never synced, each with a descriptor of ours and the length that is safe.
static struct unsynced { dev_t dev; ino_t ino; int fd; off_t safe; } files[1024];
static int file_count;

static struct unsynced *find(const struct stat *meta) {
    for (int i = 0; i < file_count; i++)
        if (files[i].dev == meta->st_dev && files[i].ino == meta->st_ino) return &files[i];
    return NULL;
}

static void note_write(int fd, int emptied) {
    struct stat meta;
    if (!loses() || fstat(fd, &meta) || !S_ISREG(meta.st_mode)) return;
    struct unsynced *file = find(&meta);
    if (!file && file_count < 1024) {
        file = &files[file_count++];
        *file = (struct unsynced){meta.st_dev, meta.st_ino, fcntl(fd, F_DUPFD_CLOEXEC, 256), meta.st_size};
    }
    if (file && emptied) file->safe = 0;
}

static void note_sync(int fd) {
    struct stat meta;
    if (!loses() || fstat(fd, &meta)) return;
    forget_changes(&meta);
    struct unsynced *file = find(&meta);
    if (!file) return;
    close(file->fd);
    *file = files[--file_count];
}

static void die(void) {
    if (loses())
        for (int i = 0; i < file_count; i++) {
            struct stat meta;
            if (!fstat(files[i].fd, &meta) && meta.st_size > files[i].safe && syscall(SYS_ftruncate, files[i].fd, files[i].safe)) {}
        }
    if (kind == NAMES) undo_changes();
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

// What is to happen to this operation: 0 nothing, an errno, -1 half of it and no more, -2 half of it (or all) and then death.
static int step(const char *operation, const char *path, enum effect effect) {
    pthread_mutex_lock(&lock);
    long number = ++count;
    if (log_fd >= 0) {
        char line[4400];
        int n = snprintf(line, sizeof line, "%ld %s %s\n", number, operation, path + root_length);
        if (syscall(SYS_write, log_fd, line, n) < 0) {}
    }
    int result = 0;
    if (at && number == at) {
        if (kind == KILL || loses()) die();
        if (kind == TORN) result = -2;
        if (kind == SHORT) result = -1;
        if (kind == EIO_ONCE) result = EIO;
    }
    if (at && number >= at) {
        if (kind == FULL && effect == TAKES_SPACE) result = ENOSPC;
        if (kind == READ_ONLY && effect != READS) result = EROFS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

#define FAIL(code) do { int e = (code); if (e > 0) { errno = e; return -1; } } while (0)

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char full[8192];
    int fault = 0, ours = absolute(folder, path, full, sizeof full) && below_root(full);
    int makes = (flags & (O_CREAT | O_TRUNC)) != 0;
    if (ours) fault = step("open", full, makes ? TAKES_SPACE : (flags & O_ACCMODE) != O_RDONLY ? CHANGES : READS);
    FAIL(fault);
    struct stat before;
    int made = ours && kind == NAMES && (flags & O_CREAT) && lstat(full, &before);
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    if (ours && fd >= 0 && makes) {
        pthread_mutex_lock(&lock);
        if (flags & (O_EXCL | O_TRUNC)) note_write(fd, 1);
        if (made) note_change(full, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    if (fault == -2) die();
    return fd;
}

#define OPENED(folder) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
    return opened(folder, path, flags, mode)

int open(const char *path, int flags, ...) { OPENED(AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPENED(AT_FDCWD); }
int openat(int folder, const char *path, int flags, ...) { OPENED(folder); }
int openat64(int folder, const char *path, int flags, ...) { OPENED(folder); }

// A write of `size` bytes in all: says how many of them to hand on, and whether to die afterwards.
static int write_fault(int fd, const char *operation, size_t size, size_t *allowed, int *ours) {
    char full[4096];
    *allowed = size;
    *ours = ready && path_of(fd, full, sizeof full) && below_root(full);
    if (!*ours) return 0;
    int fault = step(operation, full, TAKES_SPACE);
    if (fault < 0 && size > 1) *allowed = size / 2;
    pthread_mutex_lock(&lock);
    note_write(fd, 0);
    pthread_mutex_unlock(&lock);
    return fault;
}

ssize_t write(int fd, const void *data, size_t size) {
    size_t allowed; int ours;
    int fault = write_fault(fd, "write", size, &allowed, &ours);
    FAIL(fault);
    ssize_t n = syscall(SYS_write, fd, data, allowed);
    if (fault == -2) die();
    return n;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    size_t allowed; int ours;
    int fault = write_fault(fd, "write", size, &allowed, &ours);
    FAIL(fault);
    ssize_t n = syscall(SYS_pwrite64, fd, data, allowed, offset);
    if (fault == -2) die();
    return n;
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    size_t size = 0, allowed; int ours;
    for (int i = 0; i < n; i++) size += parts[i].iov_len;
    int fault = write_fault(fd, "write", size, &allowed, &ours);
    FAIL(fault);
    ssize_t done = fault < 0 && n > 0 ? syscall(SYS_write, fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2) : syscall(SYS_writev, fd, parts, n);
    if (fault == -2) die();
    return done;
}

static int on_fd(int fd, const char *operation, enum effect effect) {
    char full[4096];
    return ready && path_of(fd, full, sizeof full) && below_root(full) ? step(operation, full, effect) : 0;
}

static ssize_t bytes_read(int fd, void *data, size_t size, off64_t offset) {
    int fault = on_fd(fd, "read", READS);
    FAIL(fault);
    if (fault < 0 && size > 1) size /= 2;
    ssize_t n = offset < 0 ? syscall(SYS_read, fd, data, size) : syscall(SYS_pread64, fd, data, size, offset);
    if (fault == -2) die();
    return n;
}

ssize_t read(int fd, void *data, size_t size) { return bytes_read(fd, data, size, -1); }
ssize_t pread64(int fd, void *data, size_t size, off64_t offset) { return bytes_read(fd, data, size, offset); }

static int on_path(int folder, const char *path, const char *operation, enum effect effect) {
    char full[8192];
    return absolute(folder, path, full, sizeof full) && below_root(full) ? step(operation, full, effect) : 0;
}

#define THEN(call) do { long done = (call); if (fault == -2) die(); return (int)done; } while (0)

static int synced(int fd, long number) {
    int fault = on_fd(fd, "sync", CHANGES);
    FAIL(fault);
    long done = syscall(number, fd);
    pthread_mutex_lock(&lock);
    note_sync(fd);
    pthread_mutex_unlock(&lock);
    if (fault == -2) die();
    return (int)done;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int truncated(int fd, off64_t size) {
    int fault = on_fd(fd, "truncate", CHANGES);
    FAIL(fault);
    THEN(syscall(SYS_ftruncate, fd, size));
}

int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int renamed(int from, const char *a, int to, const char *b, unsigned flags) {
    int fault = on_path(to, b, "rename", CHANGES);
    FAIL(fault);
    char old[8192], new[8192], kept[8192];
    struct stat before;
    int number = 0, noted = kind == NAMES && absolute(from, a, old, sizeof old) && absolute(to, b, new, sizeof new) && below_root(new);
    pthread_mutex_lock(&lock);
    if (noted && !lstat(new, &before) && S_ISREG(before.st_mode) && beside(kept, sizeof kept, "kept", ++kept_count)) {
        number = kept_count;
        if (syscall(SYS_linkat, AT_FDCWD, new, AT_FDCWD, kept, 0)) {}
    }
    long done = syscall(SYS_renameat2, from, a, to, b, flags);
    if (noted && !done) note_change(new, old, number);
    pthread_mutex_unlock(&lock);
    if (fault == -2) die();
    return (int)done;
}

int rename(const char *a, const char *b) { return renamed(AT_FDCWD, a, AT_FDCWD, b, 0); }
int renameat(int from, const char *a, int to, const char *b) { return renamed(from, a, to, b, 0); }
int renameat2(int from, const char *a, int to, const char *b, unsigned flags) { return renamed(from, a, to, b, flags); }

int mkdirat(int folder, const char *path, mode_t mode) {
    int fault = on_path(folder, path, "mkdir", TAKES_SPACE);
    FAIL(fault);
    char full[8192];
    long done = syscall(SYS_mkdirat, folder, path, mode);
    if (!done && kind == NAMES && absolute(folder, path, full, sizeof full) && below_root(full)) {
        pthread_mutex_lock(&lock);
        note_change(full, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    if (fault == -2) die();
    return (int)done;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int folder, const char *path, int flags) {
    int fault = on_path(folder, path, "remove", CHANGES);
    FAIL(fault);
    THEN(syscall(SYS_unlinkat, folder, path, flags));
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int flock(int fd, int operation) {
    int fault = on_fd(fd, "lock", READS);
    FAIL(fault);
    THEN(syscall(SYS_flock, fd, operation));
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static long calls;
    int done = (int)syscall(SYS_clock_gettime, id, now);
    if (clock_jumps && id == CLOCK_REALTIME && !done) now->tv_sec += (__sync_fetch_and_add(&calls, 1) % 3 - 1) * 2000000000L;
    return done;
}
