/* Failures of a real disk for one process: LD_PRELOAD this, then call mc_arm().
 *
 * It watches the files below one folder. "sync": the n-th fsync or fdatasync of a file is EIO, and
 * what was written to it since its last sync is gone, as after the kernel has dropped the pages it
 * could not write. "readonly": from the n-th changing call on, all of them are EROFS. "full": the
 * n-th call that writes, and all later ones, are ENOSPC; half of the first one's bytes are written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NONE, SYNC, READONLY, FULL };

struct undo { /* one change of a file since its last sync */
  struct undo *next;
  dev_t device;
  ino_t inode;
  off_t size, offset;
  size_t length; /* 0: only the size changed */
  char bytes[];
};

static int kind, left, struck;
static char folder[PATH_MAX];
static struct undo *undone;

void mc_arm(const char *below, int what, int nth) {
  snprintf(folder, sizeof folder, "%s", below);
  kind = what, left = nth, struck = 0;
  while (undone) {
    struct undo *next = undone->next;
    free(undone);
    undone = next;
  }
}

int mc_struck(void) { return struck; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_below(const char *path) {
  return kind != NONE && !strncmp(path, folder, strlen(folder));
}

static int watches(int fd) {
  char link[64], path[PATH_MAX];
  if (kind == NONE) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* Counts a changing call; whether it fails. */
static int fails(int what, int error) {
  if (kind != what || (--left > 0)) return 0;
  if (what == SYNC && left < 0) return 0;
  struck++;
  errno = error;
  return 1;
}

static void remember(int fd, off_t offset, size_t length) {
  struct stat now;
  if (kind != SYNC || fstat(fd, &now)) return;
  struct undo *one = calloc(1, sizeof *one + length);
  one->device = now.st_dev, one->inode = now.st_ino, one->size = now.st_size;
  one->offset = offset;
  ssize_t got = length ? pread(fd, one->bytes, length, offset) : 0;
  one->length = got > 0 ? (size_t)got : 0;
  one->next = undone;
  undone = one;
}

/* Takes back (drop) or forgets what was done to the file since its last sync. */
static void settle(int fd, int drop) {
  struct stat now;
  if (fstat(fd, &now)) return;
  for (struct undo **at = &undone; *at;) {
    struct undo *one = *at;
    if (one->inode != now.st_ino || one->device != now.st_dev) {
      at = &one->next;
      continue;
    }
    if (drop) {
      if (one->length) REAL(pwrite64)(fd, one->bytes, one->length, one->offset);
      if (REAL(ftruncate64)(fd, one->size)) abort();
    }
    *at = one->next;
    free(one);
  }
}

static ssize_t shim_pwrite(int fd, const void *data, size_t length, off_t offset) {
  if (watches(fd)) {
    if (fails(READONLY, EROFS)) return -1;
    if (fails(FULL, ENOSPC)) {
      size_t half = struck == 1 ? length / 2 : 0;
      return half ? REAL(pwrite64)(fd, data, half, offset) : -1;
    }
    remember(fd, offset, length);
  }
  return REAL(pwrite64)(fd, data, length, offset);
}
ssize_t pwrite(int fd, const void *d, size_t n, off_t at) { return shim_pwrite(fd, d, n, at); }
ssize_t pwrite64(int fd, const void *d, size_t n, off64_t at) { return shim_pwrite(fd, d, n, at); }

static int shim_truncate(int fd, off_t size) {
  if (watches(fd)) {
    if (fails(READONLY, EROFS) || fails(FULL, ENOSPC)) return -1;
    struct stat now;
    if (!fstat(fd, &now)) remember(fd, size, now.st_size > size ? now.st_size - size : 0);
  }
  return REAL(ftruncate64)(fd, size);
}
int ftruncate(int fd, off_t size) { return shim_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return shim_truncate(fd, size); }

static int shim_sync(int fd, int (*real)(int)) {
  if (watches(fd)) {
    if (fails(READONLY, EROFS)) return -1;
    if (fails(SYNC, EIO)) {
      settle(fd, 1);
      errno = EIO;
      return -1;
    }
  }
  int done = real(fd);
  if (!done && kind == SYNC) settle(fd, 0);
  return done;
}
int fsync(int fd) { return shim_sync(fd, REAL(fsync)); }
int fdatasync(int fd) { return shim_sync(fd, REAL(fdatasync)); }

int rename(const char *from, const char *to) {
  if (is_below(to) && fails(READONLY, EROFS)) return -1;
  return REAL(rename)(from, to);
}

int unlink(const char *path) {
  if (is_below(path) && fails(READONLY, EROFS)) return -1;
  return REAL(unlink)(path);
}

static int shim_open(const char *path, int flags, mode_t mode) {
  if ((flags & O_ACCMODE) != O_RDONLY && is_below(path)) {
    if (fails(READONLY, EROFS)) return -1;
    if ((flags & O_CREAT) && access(path, F_OK) && fails(FULL, ENOSPC)) return -1;
  }
  return REAL(open64)(path, flags, mode);
}
#define OPEN(name)                          \
  int name(const char *path, int flags, ...) { \
    va_list rest;                           \
    va_start(rest, flags);                  \
    mode_t mode = va_arg(rest, mode_t);     \
    va_end(rest);                           \
    return shim_open(path, flags, mode);    \
  }
OPEN(open)
OPEN(open64)
