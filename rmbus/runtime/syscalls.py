"""The system calls that confinement has an opinion on, each with its number on x86_64 and on aarch64.

A dash: that architecture has no such call. What no table names does not exist for a confined program (ENOSYS), calls
of later kernels included; so C libraries take their older path. `clone3` is left out on purpose, for a filter cannot
see its flags, and so is `memfd_create`: memory of that kind escapes every limit of the process, the host makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Numbers = tuple[int | None, int | None]
MACHINES: Final = ("x86_64", "aarch64")


def _table(text: str) -> Mapping[str, Numbers]:
    found: dict[str, Numbers] = {}
    for entry in text.split(";")[:-1]:
        name, x86_64, aarch64 = entry.split()
        found[name] = (None if x86_64 == "-" else int(x86_64), None if aarch64 == "-" else int(aarch64))
    return found


# Files, folders, descriptors.
FILES: Final = _table("""
read 0 63; write 1 64; pread64 17 67; pwrite64 18 68; readv 19 65; writev 20 66; preadv 295 69; pwritev 296 70;
preadv2 327 286; pwritev2 328 287; open 2 -; openat 257 56; openat2 437 437; creat 85 -; close 3 57;
close_range 436 436; lseek 8 62; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291; statfs 137 43;
fstatfs 138 44; access 21 -; faccessat 269 48; faccessat2 439 439; getdents 78 -; getdents64 217 61; readlink 89 -;
readlinkat 267 78; getcwd 79 17; chdir 80 49; fchdir 81 50; mkdir 83 -; mkdirat 258 34; mknod 133 -; mknodat 259 33;
rmdir 84 -; unlink 87 -; unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276; link 86 -; linkat 265 37;
symlink 88 -; symlinkat 266 36; truncate 76 45; ftruncate 77 46; fallocate 285 47; fsync 74 82; fdatasync 75 83;
sync_file_range 277 84; fadvise64 221 223; readahead 187 213; copy_file_range 326 285; sendfile 40 71;
splice 275 76; tee 276 77; vmsplice 278 75; dup 32 23; dup2 33 -; dup3 292 24; fcntl 72 25; flock 73 32;
ioctl 16 29; pipe 22 -; pipe2 293 59; umask 95 166; getxattr 191 8; lgetxattr 192 9; fgetxattr 193 10;
listxattr 194 11; llistxattr 195 12; flistxattr 196 13; inotify_init 253 -; inotify_init1 294 26;
inotify_add_watch 254 27; inotify_rm_watch 255 28; cachestat 451 451;
""")

# Modes, owners, times, extended attributes: Landlock does not govern them, so `confined` goes without.
ATTRIBUTES: Final = _table("""
chmod 90 -; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -; lchown 94 -; fchown 93 55;
fchownat 260 54; utime 132 -; utimes 235 -; utimensat 280 88; futimesat 261 -; setxattr 188 5; lsetxattr 189 6;
fsetxattr 190 7; removexattr 197 14; lremovexattr 198 15; fremovexattr 199 16; setxattrat 463 463;
removexattrat 466 466; file_setattr 469 469;
""")

# Memory.
MEMORY: Final = _table("""
brk 12 214; mmap 9 222; munmap 11 215; mremap 25 216; mprotect 10 226; madvise 28 233; msync 26 227; mincore 27 232;
mlock 149 228; mlock2 325 284; munlock 150 229; mlockall 151 230; munlockall 152 231; membarrier 324 283;
mseal 462 462; pkey_alloc 330 289; pkey_free 331 290; pkey_mprotect 329 288; map_shadow_stack 453 453;
get_mempolicy 239 236;
""")

# Processes, threads, scheduling; some are looked at more closely, see `rmbus.runtime.seccomp`.
PROCESSES: Final = _table("""
clone 56 220; fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; exit 60 93; exit_group 231 94; wait4 61 260;
waitid 247 95; kill 62 129; tkill 200 130; tgkill 234 131; rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240;
pidfd_open 434 434; pidfd_send_signal 424 424; getpid 39 172; getppid 110 173; gettid 186 178; getpgid 121 155;
getpgrp 111 -; getsid 124 156; setsid 112 157; setpgid 109 154; getuid 102 174; geteuid 107 175; getgid 104 176;
getegid 108 177; getresuid 118 148; getresgid 120 150; getgroups 115 158; capget 125 90; set_tid_address 218 96;
set_robust_list 273 99; get_robust_list 274 100; rseq 334 293; arch_prctl 158 -; prctl 157 167; prlimit64 302 261;
getrlimit 97 163; setrlimit 160 164; getrusage 98 165; times 100 153; sysinfo 99 179; uname 63 160; getcpu 309 168;
sched_yield 24 124; sched_getaffinity 204 123; sched_setaffinity 203 122; sched_getparam 143 121;
sched_setparam 142 118; sched_getscheduler 145 120; sched_setscheduler 144 119; sched_getattr 315 275;
sched_setattr 314 274; sched_get_priority_max 146 125; sched_get_priority_min 147 126;
sched_rr_get_interval 148 127; getpriority 140 141; setpriority 141 140; ioprio_get 252 31; ioprio_set 251 30;
restart_syscall 219 128; seccomp 317 277; landlock_create_ruleset 444 444; landlock_add_rule 445 445;
landlock_restrict_self 446 446;
""")

# Signals received.
SIGNALS: Final = _table("""
rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigpending 127 136; rt_sigsuspend 130 133;
rt_sigtimedwait 128 137; sigaltstack 131 132; pause 34 -; alarm 37 -; signalfd 282 -; signalfd4 289 74;
""")

# Clocks and timers.
TIME: Final = _table("""
nanosleep 35 101; clock_nanosleep 230 115; clock_gettime 228 113; clock_getres 229 114; gettimeofday 96 169;
time 201 -; timer_create 222 107; timer_settime 223 110; timer_gettime 224 108; timer_getoverrun 225 109;
timer_delete 226 111; timerfd_create 283 85; timerfd_settime 286 86; timerfd_gettime 287 87; getitimer 36 102;
setitimer 38 103;
""")

# Waiting and waking.
WAITING: Final = _table("""
futex 202 98; futex_waitv 449 449; futex_wake 454 454; futex_wait 455 455; futex_requeue 456 456; eventfd 284 -;
eventfd2 290 19; epoll_create 213 -; epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22;
epoll_pwait2 441 441; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72; getrandom 318 278;
""")

# Sockets; which families is a rule of its own.
SOCKETS: Final = _table("""
socket 41 198; socketpair 53 199; bind 49 200; connect 42 203; listen 50 201; accept 43 202; accept4 288 242;
getsockname 51 204; getpeername 52 205; getsockopt 55 209; setsockopt 54 208; sendto 44 206; recvfrom 45 207;
sendmsg 46 211; recvmsg 47 212; sendmmsg 307 269; recvmmsg 299 243; shutdown 48 210;
""")

# Refused with EPERM, as a program expects of a call that exists but is not for it.
REFUSED: Final = _table("""
ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; process_madvise 440 440;
process_mrelease 448 448; kcmp 312 272; pidfd_getfd 438 438; perf_event_open 298 241; bpf 321 280;
userfaultfd 323 282; keyctl 250 219; add_key 248 217; request_key 249 218; io_uring_setup 425 425;
io_uring_enter 426 426; io_uring_register 427 427; unshare 272 97; setns 308 268; mount 165 40; umount2 166 39;
pivot_root 155 41; chroot 161 51; fsopen 430 430; fsconfig 431 431; fsmount 432 432; fspick 433 433;
open_tree 428 428; open_tree_attr 467 467; move_mount 429 429; mount_setattr 442 442; statmount 457 457;
listmount 458 458; swapon 167 224; swapoff 168 225; init_module 175 105; finit_module 313 273;
delete_module 176 106; kexec_load 246 104; kexec_file_load 320 294; reboot 169 142; syslog 103 116; acct 163 89;
quotactl 179 60; quotactl_fd 443 443; name_to_handle_at 303 264; open_by_handle_at 304 265; lookup_dcookie 212 18;
settimeofday 164 170; clock_settime 227 112; adjtimex 159 171; clock_adjtime 305 266; sethostname 170 161;
setdomainname 171 162; iopl 172 -; ioperm 173 -; modify_ldt 154 -; personality 135 92; vhangup 153 58;
fanotify_init 300 262; fanotify_mark 301 263; migrate_pages 256 238; move_pages 279 239; mbind 237 235;
set_mempolicy 238 237; set_mempolicy_home_node 450 450; setuid 105 146; setgid 106 144; setreuid 113 145;
setregid 114 143; setresuid 117 147; setresgid 119 149; setfsuid 122 151; setfsgid 123 152; setgroups 116 159;
capset 126 91; memfd_secret 447 447; sync 162 81; syncfs 306 267; sysfs 139 -; ustat 136 -;
uselib 134 -; nfsservctl 180 42;
""")
