//! The filter of system calls that an instance runs under.
//!
//! A list of what is refused, not of what is allowed: user code may be any program, and what it
//! needs is not known. Refused is what reaches parts of the kernel that a function has no business
//! with and in which weaknesses were found again and again. A refused call fails with `EPERM`; one
//! of another architecture ends the process, since its numbers would mean other calls.
//!
//! Not refused are the two calls by which a start shows the code, `move_mount` and `mount_setattr`:
//! the filter is loaded before that, when nobody waits for it. The kernel asks both for a right that
//! an instance does not have before it looks at anything else.
//!
//! A container is refused less ([`Profile::Container`]): what it runs was made to run in containers
//! elsewhere, where it may trace its own processes and use any protocol of a family. It is alone in
//! its namespaces, so what it may look at there is its own.
//!
//! The filter is a tree of comparisons with the numbers of the calls, whose leaves are made of a few
//! forms of statements; the tests run it.

/// One instruction of a classic BPF program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// Loads a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Where the lower half of an argument is on a little-endian machine.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Namespaces that `clone` could make; `CLONE_NEWTIME` cannot be given to it.
pub(crate) const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// Requests that type into a terminal: `TIOCSTI`, `TIOCLINUX`.
pub(crate) const TYPE_INTO_TERMINAL: [u32; 2] = [0x5412, 0x541c];

/// `AF_UNIX`, `AF_INET`, `AF_INET6`.
const FAMILIES: [u32; 3] = [1, 2, 10];
/// The family of kernel interfaces, of which `NETLINK_ROUTE` (0) lists the machine's addresses.
const NETLINK: u32 = 16;

/// Whom a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// A function that shares namespaces with others.
    Function,
    /// An image, in namespaces of its own.
    Container,
}

/// Emulations of old ways that programs may ask for without harm: Linux itself, that of 32 bits for
/// addresses, and without randomness, as debuggers do.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0x0004_0000];

/// What differs between processors.
struct Architecture {
    /// As the audit subsystem calls it.
    audit: u32,
    clone: u32,
    socket: u32,
    ioctl: u32,
    personality: u32,
    /// From here on the numbers are those of a second calling convention.
    foreign_from: Option<u32>,
    refused: &'static [u32],
    /// Those of `refused` that a container may use: on its own processes, or as a way of asking what
    /// the kernel then refuses to who has no capabilities.
    in_containers: &'static [u32],
}

const CLONE3: u32 = 435;

/// Calls with one number everywhere, in order: `pidfd_send_signal` is not among them.
const REFUSED_EVERYWHERE: &[u32] = &[
    425, 426, 427, // io_uring_setup, _enter, _register
    428, 430, 431, 432, 433, // open_tree, fsopen, fsconfig, fsmount, fspick
    438, // pidfd_getfd
    443, // quotactl_fd
    448, // process_mrelease
    457, 458, // statmount, listmount
    467, // open_tree_attr
];

#[cfg(any(target_arch = "x86_64", test))]
const X86_64: Architecture = Architecture {
    audit: 0xc000_003e,
    clone: 56,
    socket: 41,
    ioctl: 16,
    personality: 135,
    foreign_from: Some(0x4000_0000),
    refused: &[
        101, 310, 311, 312, // ptrace, process_vm_readv, process_vm_writev, kcmp
        165, 166, 155, 161, // mount, umount2, pivot_root, chroot
        272, 308, // unshare, setns
        298, 321, 323, // perf_event_open, bpf, userfaultfd
        248, 249, 250, // add_key, request_key, keyctl
        167, 168, 169, 246, 320, // swapon, swapoff, reboot, kexec_load, kexec_file_load
        174, 175, 176, 177, 178,
        313, // create_, init_, delete_, query_module …, finit_module
        172, 173, 154, 134, 136, 139,
        156, // iopl, ioperm, modify_ldt, uselib, ustat, sysfs, sysctl
        163, 179, 180, 212, // acct, quotactl, nfsservctl, lookup_dcookie
        164, 227, 159, 305, // settimeofday, clock_settime, adjtimex, clock_adjtime
        103, 153, 170, 171, // syslog, vhangup, sethostname, setdomainname
        303, 304, 300, // name_to_handle_at, open_by_handle_at, fanotify_init
        256, 279, // migrate_pages, move_pages
    ],
    in_containers: &[
        101, 310, 311, 312, // ptrace, process_vm_readv, process_vm_writev, kcmp
        154, // modify_ldt
        303, // name_to_handle_at
    ],
};

#[cfg(any(target_arch = "aarch64", test))]
const AARCH64: Architecture = Architecture {
    audit: 0xc000_00b7,
    clone: 220,
    socket: 198,
    ioctl: 29,
    personality: 92,
    foreign_from: None,
    refused: &[
        117, 270, 271, 272, // ptrace, process_vm_readv, process_vm_writev, kcmp
        40, 39, 41, 51, // mount, umount2, pivot_root, chroot
        97, 268, // unshare, setns
        241, 280, 282, // perf_event_open, bpf, userfaultfd
        217, 218, 219, // add_key, request_key, keyctl
        224, 225, 142, 104, 294, // swapon, swapoff, reboot, kexec_load, kexec_file_load
        105, 106, 273, // init_module, delete_module, finit_module
        89, 60, 42, 18, // acct, quotactl, nfsservctl, lookup_dcookie
        170, 112, 171, 266, // settimeofday, clock_settime, adjtimex, clock_adjtime
        116, 58, 161, 162, // syslog, vhangup, sethostname, setdomainname
        264, 265, 262, // name_to_handle_at, open_by_handle_at, fanotify_init
        238, 239, // migrate_pages, move_pages
    ],
    in_containers: &[
        117, 270, 271, 272, // ptrace, process_vm_readv, process_vm_writev, kcmp
        264, // name_to_handle_at
    ],
};

/// The calls that containers are refused, by their names on whatever processor; for runtimes that
/// make a filter of names.
pub(crate) const REFUSED_IN_CONTAINERS: [&str; 60] = [
    "_sysctl",
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_mrelease",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "listmount",
    "statmount",
];

#[cfg(target_arch = "x86_64")]
const HERE: Option<&Architecture> = Some(&X86_64);
#[cfg(target_arch = "aarch64")]
const HERE: Option<&Architecture> = Some(&AARCH64);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const HERE: Option<&Architecture> = None;

/// The program for this machine, as the kernel takes it; none for other kinds of processors.
pub(super) fn filter(profile: Profile) -> Option<Vec<u8>> {
    HERE.map(|on| bytes(&program(on, profile)))
}

fn bytes(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.if_true, instruction.if_false]);
        bytes.extend_from_slice(&instruction.value.to_ne_bytes());
    }
    bytes
}

const fn load(at: u32) -> Instruction {
    Instruction {
        code: LOAD,
        if_true: 0,
        if_false: 0,
        value: at,
    }
}

const fn give(value: u32) -> Instruction {
    Instruction {
        code: RETURN,
        if_true: 0,
        if_false: 0,
        value,
    }
}

/// Skips so many instructions unless the comparison holds.
const fn unless(code: u16, value: u32, skip: u8) -> Instruction {
    Instruction {
        code,
        if_true: 0,
        if_false: skip,
        value,
    }
}

/// Skips so many instructions if the loaded word has this value.
const fn skip_if(value: u32, skip: u8) -> Instruction {
    Instruction {
        code: JUMP_EQUAL,
        if_true: skip,
        if_false: 0,
        value,
    }
}

fn program(on: &Architecture, profile: Profile) -> Vec<Instruction> {
    let refuse = give(ERRNO | EPERM);
    let mut program = vec![
        load(ARCHITECTURE),
        skip_if(on.audit, 1),
        give(KILL),
        load(NUMBER),
    ];
    if let Some(foreign) = on.foreign_from {
        program.extend([unless(JUMP_AT_LEAST, foreign, 1), give(KILL)]);
    }
    let spared = match profile {
        Profile::Function => &[],
        Profile::Container => on.in_containers,
    };
    let refused = on.refused.iter().chain(REFUSED_EVERYWHERE);
    let mut cases: Vec<(u32, Vec<Instruction>)> = refused
        .filter(|number| !spared.contains(number))
        .map(|&number| (number, vec![refuse]))
        .collect();
    // Its flags are in memory, where a filter cannot look. C libraries then use clone.
    cases.push((CLONE3, vec![give(ERRNO | ENOSYS)]));
    cases.extend(rules(on, profile).map(|(number, mut body)| {
        body.push(give(ALLOW));
        (number, body)
    }));
    cases.sort_unstable_by_key(|&(number, _)| number);
    program.extend(choice(&cases));
    program
}

/// What to do about the number that is loaded: a tree of comparisons, since the kernel tries every
/// number there is when it loads a filter, which is at every start.
fn choice(cases: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    let skip = |body: &[Instruction]| u8::try_from(body.len()).unwrap_or(u8::MAX);
    let (below, above) = cases.split_at(cases.len() / 2);
    if let ([_, _, ..], Some(&(middle, _))) = (below, above.first()) {
        let (below, above) = (choice(below), choice(above));
        let mut program = vec![unless(JUMP_AT_LEAST, middle, skip(&above))];
        program.extend(above);
        program.extend(below);
        return program;
    }
    let mut program = Vec::new();
    for (number, body) in cases {
        program.push(unless(JUMP_EQUAL, *number, skip(body)));
        program.extend(body);
    }
    program.push(give(ALLOW));
    program
}

/// What is refused by its arguments: the number of a call and what is done about it.
fn rules(on: &Architecture, profile: Profile) -> [(u32, Vec<Instruction>); 4] {
    let refuse = give(ERRNO | EPERM);
    let clone = vec![
        load(argument(0)),
        unless(JUMP_ANY_BIT, NEW_NAMESPACES, 1),
        refuse,
    ];
    let ioctl = vec![
        load(argument(1)),
        skip_if(TYPE_INTO_TERMINAL[0], 1),
        unless(JUMP_EQUAL, TYPE_INTO_TERMINAL[1], 1),
        refuse,
    ];
    // Whoever is alone in a network may ask for all that is in it.
    let netlink = match profile {
        Profile::Function => vec![
            unless(JUMP_EQUAL, NETLINK, 2),
            load(argument(2)),
            skip_if(0, 1),
            refuse,
        ],
        Profile::Container => vec![skip_if(NETLINK, 1), refuse],
    };
    let rest = u8::try_from(netlink.len()).unwrap_or(u8::MAX);
    let mut socket = vec![load(argument(0))];
    socket.extend((0..).zip(FAMILIES).map(|(at, family)| {
        // Over the other families and all of what follows.
        skip_if(family, 2 - at + rest)
    }));
    socket.extend(netlink);
    let mut personality = vec![load(argument(0))];
    match profile {
        // To ask for the present one, or for the usual one, is all that functions do.
        Profile::Function => personality.extend([skip_if(0, 2), skip_if(u32::MAX, 1)]),
        Profile::Container => {
            personality.extend(
                (0..)
                    .zip(PERSONALITIES)
                    .map(|(at, one)| skip_if(one, 6 - at)),
            );
            personality.push(skip_if(u32::MAX, 1));
        }
    }
    personality.push(refuse);
    [
        (on.clone, clone),
        (on.ioctl, ioctl),
        (on.socket, socket),
        (on.personality, personality),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do: a machine for the instructions that are used.
    fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let Instruction {
                code,
                if_true,
                if_false,
                value,
            } = program[at];
            let jump = match code {
                RETURN => return value,
                LOAD => {
                    word = match value {
                        NUMBER => number,
                        ARCHITECTURE => audit,
                        at => arguments[(at as usize - 16) / 8],
                    };
                    at += 1;
                    continue;
                }
                JUMP_EQUAL => word == value,
                JUMP_AT_LEAST => word >= value,
                JUMP_ANY_BIT => word & value != 0,
                other => panic!("no instruction {other:#x}"),
            };
            at += 1 + usize::from(if jump { if_true } else { if_false });
        }
    }

    const REFUSED: u32 = ERRNO | EPERM;

    #[test]
    fn every_number_of_the_list_is_refused_and_no_other() {
        for on in [X86_64, AARCH64] {
            let program = program(&on, Profile::Function);
            let special = [on.clone, on.ioctl, on.socket, on.personality, CLONE3];
            for number in (0..600).filter(|number| !special.contains(number)) {
                let listed = on.refused.contains(&number) || REFUSED_EVERYWHERE.contains(&number);
                let expected = if listed { REFUSED } else { ALLOW };
                let given = run(&program, on.audit, number, [0; 3]);
                assert_eq!(given, expected, "{number} on {:#x}", on.audit);
            }
        }
    }

    #[test]
    fn the_lists_name_no_call_twice() {
        for on in [X86_64, AARCH64] {
            let mut all = [on.refused, REFUSED_EVERYWHERE].concat();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count);
        }
    }

    #[test]
    fn another_architecture_or_convention_ends_the_process() {
        assert_eq!(
            run(&program(&X86_64, Profile::Function), 0x4000_0003, 1, [0; 3]),
            KILL
        );
        assert_eq!(
            run(
                &program(&X86_64, Profile::Function),
                X86_64.audit,
                0x4000_0001,
                [0; 3]
            ),
            KILL
        );
        assert_eq!(
            run(
                &program(&AARCH64, Profile::Function),
                X86_64.audit,
                1,
                [0; 3]
            ),
            KILL
        );
    }

    #[test]
    fn a_thread_is_made_and_a_namespace_is_not() {
        let program = program(&X86_64, Profile::Function);
        let clone = |flags| run(&program, X86_64.audit, X86_64.clone, [flags, 0, 0]);
        assert_eq!(clone(0x003d_0f00), ALLOW);
        assert_eq!(clone(17), ALLOW);
        for namespace in [
            0x0002_0000,
            0x0200_0000,
            0x0400_0000,
            0x0800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ] {
            assert_eq!(clone(namespace | 0x11), REFUSED, "{namespace:#x}");
        }
        let clone3 = run(&program, X86_64.audit, CLONE3, [0; 3]);
        assert_eq!(clone3, ERRNO | ENOSYS);
    }

    #[test]
    fn sockets_are_of_the_usual_families() {
        let program = program(&AARCH64, Profile::Function);
        let socket = |family, protocol| {
            run(
                &program,
                AARCH64.audit,
                AARCH64.socket,
                [family, 1, protocol],
            )
        };
        for family in FAMILIES {
            assert_eq!(socket(family, 6), ALLOW, "{family}");
        }
        assert_eq!(socket(NETLINK, 0), ALLOW);
        assert_eq!(socket(NETLINK, 12), REFUSED);
        for family in [0, 3, 9, 17, 29, 31, 38, 40, 44] {
            assert_eq!(socket(family, 0), REFUSED, "{family}");
        }
    }

    #[test]
    fn a_container_traces_itself_and_makes_no_namespaces() {
        for on in [X86_64, AARCH64] {
            let program = program(&on, Profile::Container);
            let call = |number, arguments| run(&program, on.audit, number, arguments);
            for &number in on.refused {
                let spared = on.in_containers.contains(&number);
                let expected = if spared { ALLOW } else { REFUSED };
                assert_eq!(call(number, [0; 3]), expected, "{number}");
            }
            assert_eq!(call(on.clone, [0x1000_0011, 0, 0]), REFUSED);
            for family in [1, 2, 10, 16] {
                assert_eq!(call(on.socket, [family, 3, 12]), ALLOW, "{family}");
            }
            for family in [0, 3, 9, 17, 29, 38, 40, 44] {
                assert_eq!(call(on.socket, [family, 3, 0]), REFUSED, "{family}");
            }
            for one in PERSONALITIES.into_iter().chain([u32::MAX]) {
                assert_eq!(call(on.personality, [one, 0, 0]), ALLOW, "{one:#x}");
            }
            for one in [1, 0x0040_0000, 0x0004_0008] {
                assert_eq!(call(on.personality, [one, 0, 0]), REFUSED, "{one:#x}");
            }
            assert_eq!(call(on.ioctl, [0, 0x5412, 0]), REFUSED);
        }
    }

    #[test]
    fn nobody_types_into_a_terminal_or_changes_the_personality() {
        let program = program(&X86_64, Profile::Function);
        let call = |number, arguments| run(&program, X86_64.audit, number, arguments);
        assert_eq!(call(X86_64.ioctl, [0, 0x5412, 0]), REFUSED);
        assert_eq!(call(X86_64.ioctl, [0, 0x541c, 0]), REFUSED);
        assert_eq!(call(X86_64.ioctl, [0, 0x5413, 0]), ALLOW);
        assert_eq!(call(X86_64.personality, [u32::MAX, 0, 0]), ALLOW);
        assert_eq!(call(X86_64.personality, [0, 0, 0]), ALLOW);
        assert_eq!(call(X86_64.personality, [0x0004_0000, 0, 0]), REFUSED);
    }
}
