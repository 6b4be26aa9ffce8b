//! The compiling thread.
//!
//! Owns the one thread with a stack large enough for the CEL crate's recursive parser (and for the
//! trees it drops), and the sharing of equal programs.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

use cel_interpreter::ParseErrors;
use cel_interpreter::parser::Parser;

use super::{Program, check, guard};
use crate::error::{Code, Problem};
use crate::limits;

type Answer = Result<Arc<Program>, Problem>;

struct Job {
    source: Arc<str>,
    answer: SyncSender<Answer>,
}

/// Registrations wait for their answers, so the queue is as long as there are callers.
const JOBS_MAX: usize = 64;

static COMPILER: LazyLock<SyncSender<Job>> = LazyLock::new(|| {
    let (jobs, todo) = sync_channel::<Job>(JOBS_MAX);
    let work = move || {
        let mut known = Known::default();
        while let Ok(job) = todo.recv() {
            // Whoever asked may be gone.
            let _ = job.answer.send(known.compile(&job.source));
        }
    };
    let thread = std::thread::Builder::new().name("cel-compiler".to_owned()).stack_size(limits::cel_stack_bytes);
    thread.spawn(work).expect("a process that cannot start a thread cannot run at all");
    jobs
});

/// Compiles on the compiling thread and waits for it.
pub(super) fn compile(source: &str) -> Answer {
    if source.len() > limits::cel_source_bytes_max {
        let detail = format!("CEL has at most {} bytes", limits::cel_source_bytes_max);
        return Err(Problem::new(Code::FilterTooComplex, detail).at("cel"));
    }
    let (answer, result) = sync_channel(1);
    let sent = COMPILER.send(Job { source: source.into(), answer });
    sent.expect("the compiling thread ends only with the process");
    result.recv().expect("the compiling thread answers every job")
}

/// Programs still in use, by source.
#[derive(Default)]
struct Known {
    programs: HashMap<Arc<str>, Weak<Program>>,
    sweep_at: usize,
}

impl Known {
    fn compile(&mut self, source: &Arc<str>) -> Answer {
        if let Some(program) = self.programs.get(source).and_then(Weak::upgrade) {
            return Ok(program);
        }
        // The parser is generated code of another project: a panic in it is the source's fault.
        let parsed = catch_unwind(AssertUnwindSafe(|| parse(source)));
        let program = Arc::new(parsed.unwrap_or_else(|_| Err(failed("the parser gave up")))?);
        if self.programs.len() >= self.sweep_at {
            self.programs.retain(|_, program| program.strong_count() > 0);
            self.sweep_at = 2 * self.programs.len() + 1024;
        }
        self.programs.insert(Arc::clone(source), Arc::downgrade(&program));
        Ok(program)
    }
}

fn parse(source: &Arc<str>) -> Result<Program, Problem> {
    let mut expression = Parser::new().parse(source).map_err(|errors| failed(described(&errors)))?;
    check::check(&expression)?;
    guard::guard(&mut expression);
    Ok(Program { source: Arc::clone(source), expression, formula: OnceLock::new() })
}

/// The first error in a line. The crate's own text has several, draws a picture, and panics past
/// column 65,535.
fn described(errors: &ParseErrors) -> String {
    match errors.errors.first() {
        Some(error) => format!("line {}, column {}: {}", error.pos.0, error.pos.1, error.msg),
        None => "not an expression".to_owned(),
    }
}

fn failed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::CelCompilationFailed, detail).at("cel")
}
