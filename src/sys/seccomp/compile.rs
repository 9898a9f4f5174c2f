//! From a policy to the kernel's bytecode.
//!
//! Code is emitted from its end: a jump is written when its target already has a place, so every distance is known at
//! once. Jumps of a comparison reach 255 instructions; farther ones go through an unconditional jump.

use super::{Action, Comparison, Condition, Error, Policy, Rule};
use crate::sys::arch;
use std::collections::BTreeMap;

/// The kernel's limit (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Compiles a policy into the bytes that [`load`](super::load) takes.
pub fn compile(policy: &Policy) -> Result<Vec<u8>, Error> {
    let mut code = Code::default();
    let unknown = code.answer(policy.unknown);
    let native = block(&mut code, policy, false)?;
    let compat = match arch::AUDIT_COMPAT {
        Some(_) => Some(block(&mut code, policy, true)?),
        None => None,
    };
    // Backwards: the arch is loaded first, then compared.
    let mut start = unknown;
    if let (Some(arch), Some(compat)) = (arch::AUDIT_COMPAT, compat) {
        start = code.branch(JEQ, arch, compat, start);
    }
    start = code.branch(JEQ, arch::AUDIT_NATIVE, native, start);
    code.plain(LOAD, OFFSET_ARCH, start);
    code.finish()
}

/// What happens to one number.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Always(Action),
    Rules(Vec<Rule>),
}

/// Emits the part for one ABI; the answer is where it starts.
fn block(code: &mut Code, policy: &Policy, compat: bool) -> Result<Label, Error> {
    let mut numbers: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut last_known = 0;
    for (name, number) in arch::syscalls() {
        let Some(number) = (if compat { number.compat } else { number.native }) else { continue };
        last_known = last_known.max(number);
        let verdict = match policy.rules.get(name).map(Vec::as_slice) {
            None | Some([]) => Verdict::Always(policy.default),
            Some([rule, ..]) if rule.conditions.is_empty() => Verdict::Always(rule.action),
            Some(rules) => Verdict::Rules(rules.to_vec()),
        };
        numbers.insert(number, verdict);
    }
    // Ranges: each begins at its number and goes up to the next one's. Numbers that no call has go with their neighbours,
    // which makes fewer ranges: the kernel has nothing to do for them, whatever the filter says.
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |from: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((from, verdict));
        }
    };
    for (number, verdict) in numbers {
        push(number, verdict);
    }
    push(last_known.saturating_add(1), Verdict::Always(policy.unknown));
    let start = tree(code, &ranges, policy.default)?;
    Ok(code.plain(LOAD, OFFSET_NUMBER, start))
}

/// Emits the search among ranges (never empty); depth is the logarithm of their number.
fn tree(code: &mut Code, ranges: &[(u32, Verdict)], default: Action) -> Result<Label, Error> {
    match ranges {
        [] => Ok(code.answer(default)),
        [(_, verdict)] => leaf(code, verdict, default),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let above = tree(code, high, default)?;
            let below = tree(code, low, default)?;
            Ok(code.branch(JGE, high.first().map_or(0, |(from, _)| *from), above, below))
        }
    }
}

fn leaf(code: &mut Code, verdict: &Verdict, default: Action) -> Result<Label, Error> {
    let rules = match verdict {
        Verdict::Always(action) => return Ok(code.answer(*action)),
        Verdict::Rules(rules) => rules,
    };
    let mut otherwise = code.answer(default);
    for rule in rules.iter().rev() {
        let mut met = code.answer(rule.action);
        for condition in rule.conditions.iter().rev() {
            met = compare(code, *condition, met, otherwise)?;
        }
        otherwise = met;
    }
    Ok(otherwise)
}

/// Emits one condition: goes on at `yes` or at `no`.
fn compare(code: &mut Code, condition: Condition, yes: Label, no: Label) -> Result<Label, Error> {
    if condition.argument > 5 {
        return Err(Error::Argument(condition.argument));
    }
    // Little endian, as is every processor that rbuild knows.
    let low = OFFSET_ARGS + u32::from(condition.argument) * 8;
    let high = low + 4;
    let (lower, upper) = (|v: u64| (v & 0xffff_ffff) as u32, |v: u64| (v >> 32) as u32);
    Ok(match condition.comparison {
        Comparison::Equal(v) => {
            let l = code.branch(JEQ, lower(v), yes, no);
            let l = code.plain(LOAD, low, l);
            let l = code.branch(JEQ, upper(v), l, no);
            code.plain(LOAD, high, l)
        }
        Comparison::NotEqual(v) => {
            let opposite = Condition { comparison: Comparison::Equal(v), ..condition };
            return compare(code, opposite, no, yes);
        }
        Comparison::NotEqual32(v) => {
            let l = code.branch(JEQ, v, no, yes);
            code.plain(LOAD, low, l)
        }
        Comparison::Greater(v) => ordered(code, JGT, (low, high), (lower(v), upper(v)), yes, no),
        Comparison::GreaterOrEqual(v) => ordered(code, JGE, (low, high), (lower(v), upper(v)), yes, no),
        Comparison::Less(v) => ordered(code, JGE, (low, high), (lower(v), upper(v)), no, yes),
        Comparison::LessOrEqual(v) => ordered(code, JGT, (low, high), (lower(v), upper(v)), no, yes),
        Comparison::Masked { mask, value } => {
            let l = code.branch(JEQ, lower(value), yes, no);
            let l = code.plain(AND, lower(mask), l);
            let l = code.plain(LOAD, low, l);
            let l = code.branch(JEQ, upper(value), l, no);
            let l = code.plain(AND, upper(mask), l);
            code.plain(LOAD, high, l)
        }
    })
}

/// `argument > value` or `argument >= value`, by the upper halves first.
fn ordered(
    code: &mut Code,
    on_low: u16,
    (low, high): (u32, u32),
    (value_low, value_high): (u32, u32),
    yes: Label,
    no: Label,
) -> Label {
    let l = code.branch(on_low, value_low, yes, no);
    let l = code.plain(LOAD, low, l);
    let l = code.branch(JEQ, value_high, l, no);
    let l = code.branch(JGT, value_high, yes, l);
    code.plain(LOAD, high, l)
}

/// A place in the code: the number of instructions from it to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// The code so far, last instruction first.
#[derive(Default)]
struct Code(Vec<Instruction>);

impl Code {
    fn push(&mut self, instruction: Instruction) -> Label {
        self.0.push(instruction);
        Label(self.0.len())
    }

    /// How many instructions lie between the next one to be emitted and `target`.
    fn distance(&self, target: Label) -> usize {
        self.0.len() - target.0
    }

    fn answer(&mut self, action: Action) -> Label {
        let k = match action {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::Trace(number) => libc::SECCOMP_RET_TRACE | u32::from(number),
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
        };
        self.push(Instruction { code: RETURN, jt: 0, jf: 0, k })
    }

    /// An instruction that goes on at `next`.
    fn plain(&mut self, code: u16, k: u32, next: Label) -> Label {
        self.near(next, 0);
        self.push(Instruction { code, jt: 0, jf: 0, k })
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        // The second trampoline moves the first target one away.
        let yes = self.near(yes, 254);
        let no = self.near(no, 255);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        // Both fit: `near` saw to it.
        self.push(Instruction { code, jt: jt.min(255) as u8, jf: jf.min(255) as u8, k })
    }

    /// A place at most `reach` away from which the code goes on at `target`.
    fn near(&mut self, target: Label, reach: usize) -> Label {
        match self.distance(target) {
            distance if distance <= reach => target,
            distance => {
                let k = u32::try_from(distance).unwrap_or(u32::MAX);
                self.push(Instruction { code: JUMP, jt: 0, jf: 0, k })
            }
        }
    }

    fn finish(self) -> Result<Vec<u8>, Error> {
        if self.0.len() > MAX_INSTRUCTIONS {
            return Err(Error::TooLong(self.0.len()));
        }
        let mut bytes = Vec::with_capacity(self.0.len() * 8);
        for i in self.0.iter().rev() {
            bytes.extend_from_slice(&i.code.to_ne_bytes());
            bytes.extend_from_slice(&[i.jt, i.jf]);
            bytes.extend_from_slice(&i.k.to_ne_bytes());
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the bytecode as the kernel would.
    fn interpret(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        args.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = &program[at * 8..at * 8 + 8];
            let code = u16::from_ne_bytes([i[0], i[1]]);
            let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
            let jump = |yes: bool| at + 1 + usize::from(if yes { i[2] } else { i[3] });
            at = match code {
                LOAD => {
                    a = word(k as usize);
                    at + 1
                }
                AND => {
                    a &= k;
                    at + 1
                }
                JUMP => at + 1 + k as usize,
                JEQ => jump(a == k),
                JGT => jump(a > k),
                JGE => jump(a >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            };
        }
    }

    fn policy(rules: &[(&str, Rule)]) -> Policy {
        let mut policy = Policy { default: Action::Errno(1), unknown: Action::Errno(38), rules: BTreeMap::new() };
        for (name, rule) in rules {
            policy.rules.entry((*name).to_owned()).or_default().push(rule.clone());
        }
        policy
    }

    fn allow(conditions: &[(u8, Comparison)]) -> Rule {
        let conditions = conditions.iter().map(|&(argument, comparison)| Condition { argument, comparison }).collect();
        Rule { conditions, action: Action::Allow }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    fn number(name: &str) -> u32 {
        arch::syscall(name).unwrap().native.unwrap()
    }

    #[test]
    fn every_number_gets_its_verdict_in_both_abis() {
        // Every other call allowed, so that nothing collapses into ranges and far jumps are needed.
        let names: Vec<&str> = arch::syscalls().map(|(n, _)| n).step_by(2).collect();
        let rules: Vec<(&str, Rule)> = names.iter().map(|n| (*n, allow(&[]))).collect();
        let program = compile(&policy(&rules)).unwrap();
        let allowed = |compat: bool, nr: u32| {
            names
                .iter()
                .filter_map(|n| arch::syscall(n))
                .any(|n| (if compat { n.compat } else { n.native }) == Some(nr))
        };
        for nr in 0..=469 {
            for (arch, compat) in [(arch::AUDIT_NATIVE, false), (arch::AUDIT_COMPAT.unwrap(), true)] {
                if arch::syscall_name(arch, nr).is_some() {
                    let expected = if allowed(compat, nr) { ALLOW } else { EPERM };
                    assert_eq!(interpret(&program, arch, nr, [0; 6]), expected, "{nr}");
                }
            }
        }
        for nr in [470, 9999, 0x4000_0000, 0x4000_0001, u32::MAX] {
            assert_eq!(interpret(&program, arch::AUDIT_NATIVE, nr, [0; 6]), ENOSYS, "{nr}");
        }
        assert_eq!(interpret(&program, 0x1234, 0, [0; 6]), ENOSYS);
    }

    #[test]
    fn comparisons_are_of_64_bits() {
        const BIG: u64 = 0x1_0000_0005;
        let table = [
            (Comparison::Equal(BIG), vec![BIG], vec![5, BIG - 1, BIG + 1, 0x2_0000_0005]),
            (Comparison::NotEqual(BIG), vec![5, BIG - 1, 0], vec![BIG]),
            (Comparison::Less(BIG), vec![0, 6, BIG - 1], vec![BIG, BIG + 1, 0x2_0000_0000]),
            (Comparison::LessOrEqual(BIG), vec![0, 6, BIG], vec![BIG + 1, 0x2_0000_0000]),
            (Comparison::Greater(BIG), vec![BIG + 1, 0x2_0000_0000], vec![0, 6, 0xffff_ffff, BIG]),
            (Comparison::GreaterOrEqual(BIG), vec![BIG, 0x2_0000_0000], vec![0, 6, BIG - 1]),
            (Comparison::Masked { mask: 0xf0, value: 0x20 }, vec![0x2f, 0x12f, 1 << 40 | 0x20], vec![0x30, 0]),
            (Comparison::NotEqual32(u32::MAX), vec![0, 1], vec![u64::MAX, 0xffff_ffff]),
        ];
        for (comparison, yes, no) in table {
            let program = compile(&policy(&[("read", allow(&[(2, comparison)]))])).unwrap();
            let run = |v| interpret(&program, arch::AUDIT_NATIVE, number("read"), [9, 9, v, 9, 9, 9]);
            yes.iter().for_each(|v| assert_eq!(run(*v), ALLOW, "{comparison:?} {v:#x}"));
            no.iter().for_each(|v| assert_eq!(run(*v), EPERM, "{comparison:?} {v:#x}"));
        }
    }

    #[test]
    fn conditions_of_a_rule_are_all_needed_and_any_rule_will_do() {
        let rules = [
            ("read", allow(&[(0, Comparison::Equal(1)), (1, Comparison::Equal(2))])),
            ("read", allow(&[(0, Comparison::Equal(7))])),
        ];
        let program = compile(&policy(&rules)).unwrap();
        let run = |a, b| interpret(&program, arch::AUDIT_NATIVE, number("read"), [a, b, 0, 0, 0, 0]);
        assert_eq!([run(1, 2), run(1, 3), run(7, 0), run(0, 2)], [ALLOW, EPERM, ALLOW, EPERM]);
    }

    #[test]
    fn arguments_beyond_the_sixth_are_refused() {
        let bad = policy(&[("read", allow(&[(6, Comparison::Equal(1))]))]);
        assert_eq!(compile(&bad), Err(Error::Argument(6)));
    }
}
