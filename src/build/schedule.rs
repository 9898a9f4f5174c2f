//! Runs a graph of steps: every step whose inputs are finished, as many at once as allowed.

use crate::plan::StepId;
use crate::sys::signal::Cancel;
use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// What a graph is made of: for each step the steps that it waits for, all with smaller numbers.
pub(super) type Edges = Vec<Vec<StepId>>;

struct State<T, E> {
    /// Steps that can start. The smallest number goes first: that is the order of the Dockerfile.
    ready: BTreeSet<usize>,
    /// For each step, how many inputs are not finished.
    waiting: Vec<usize>,
    results: Vec<Option<T>>,
    unfinished: usize,
    running: usize,
    failed: Option<E>,
}

/// Executes `step` for every node of the graph, at most `jobs` at once, and returns all results. `step` gets the results of
/// a step's inputs through the function it is handed.
///
/// After the first failure nothing new starts, and `cancel` is raised for what runs. The first error is returned.
pub(super) fn run<T, E, F>(
    edges: &Edges,
    jobs: usize,
    cancel: &Cancel,
    cancelled: fn() -> E,
    step: F,
) -> Result<Vec<T>, E>
where
    T: Clone + Send,
    E: Send,
    F: Fn(StepId, &dyn Fn(StepId) -> Option<T>) -> Result<T, E> + Sync,
{
    let mut users: Vec<Vec<usize>> = vec![vec![]; edges.len()];
    for (i, inputs) in edges.iter().enumerate() {
        for input in inputs {
            users[input.0].push(i);
        }
    }
    let waiting: Vec<usize> = edges.iter().map(Vec::len).collect();
    let ready: BTreeSet<usize> = (0..edges.len()).filter(|i| waiting[*i] == 0).collect();
    let workers = jobs.clamp(1, edges.len().max(1));
    let state = Mutex::new(State {
        ready,
        waiting,
        results: (0..edges.len()).map(|_| None).collect(),
        unfinished: edges.len(),
        running: 0,
        failed: None,
    });
    let changed = Condvar::new();
    let work = || {
        let mut s = lock(&state);
        loop {
            if s.unfinished == 0 || s.failed.is_some() {
                return;
            }
            let Some(i) = s.ready.pop_first() else {
                s = changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            s.running += 1;
            drop(s);
            let result_of = |id: StepId| lock(&state).results.get(id.0).cloned().flatten();
            let result = if cancel.is_cancelled() { Err(cancelled()) } else { step(StepId(i), &result_of) };
            s = lock(&state);
            s.running -= 1;
            match result {
                Ok(result) => {
                    s.results[i] = Some(result);
                    s.unfinished -= 1;
                    for &user in &users[i] {
                        s.waiting[user] -= 1;
                        if s.waiting[user] == 0 {
                            s.ready.insert(user);
                        }
                    }
                }
                Err(e) => {
                    s.failed.get_or_insert(e);
                    cancel.cancel();
                }
            }
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for n in 1..workers {
            let spawned = std::thread::Builder::new().name(format!("step-{n}")).spawn_scoped(scope, work);
            if spawned.is_err() {
                break; // fewer threads do the same work
            }
        }
        work();
    });
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failed {
        Some(e) => Err(e),
        None => Ok(state.results.into_iter().flatten().collect()),
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn edges(e: &[&[usize]]) -> Edges {
        e.iter().map(|v| v.iter().map(|i| StepId(*i)).collect()).collect()
    }

    #[test]
    fn inputs_come_first_and_their_results_are_handed_over() {
        let cancel = Cancel::new().unwrap();
        let e = edges(&[&[], &[0], &[0], &[1, 2]]);
        let all = run(
            &e,
            4,
            &cancel,
            || "cancelled",
            |id, result_of| {
                let sum: usize = e[id.0].iter().map(|i| result_of(*i).unwrap()).sum();
                Ok(sum + 1)
            },
        );
        assert_eq!(all.unwrap(), [1, 2, 2, 5]);
    }

    #[test]
    fn independent_steps_run_at_once() {
        let cancel = Cancel::new().unwrap();
        let together = Barrier::new(3);
        let e = edges(&[&[], &[], &[]]);
        run(
            &e,
            3,
            &cancel,
            || (),
            |_, _| {
                together.wait();
                Ok(())
            },
        )
        .unwrap();
    }

    #[test]
    fn a_failure_stops_the_rest() {
        let cancel = Cancel::new().unwrap();
        let e = edges(&[&[], &[0], &[1]]);
        let result = run(&e, 1, &cancel, || "cancelled", |id, _| if id.0 == 1 { Err("failed") } else { Ok(id.0) });
        assert_eq!(result, Err("failed"));
        assert!(cancel.is_cancelled());
    }

    #[test]
    fn nothing_to_do_is_done() {
        let cancel = Cancel::new().unwrap();
        assert_eq!(run(&vec![], 2, &cancel, || (), |_, _| Ok(0)), Ok(vec![]));
    }
}
