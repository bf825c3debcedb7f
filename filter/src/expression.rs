//! The syntax tree of a filter, and its translation to a program of checks.

use std::fmt;

use crate::check::{ACCEPT, Check, REJECT, Step};
use crate::kind::Kind;

/// A filter expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    Check(Check),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

impl Expression {
    /// The program of the expression. It starts with the last step.
    pub(crate) fn compile(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.emit(ACCEPT, REJECT, &mut steps);
        steps
    }

    /// The result for all frames of a kind; `None` if it depends on more than that.
    pub(crate) fn of_kind(&self, kind: Kind) -> Option<bool> {
        // The result of a list: `end` as soon as one operand is that, and the opposite if all are.
        let list = |list: &[Expression], end: bool| {
            let mut all = Some(!end);
            for result in list.iter().map(|operand| operand.of_kind(kind)) {
                match result {
                    Some(result) if result == end => return Some(end),
                    Some(_) => {}
                    None => all = None,
                }
            }
            all
        };
        match self {
            Expression::Check(check) => check.of_kind(kind),
            Expression::Not(inner) => inner.of_kind(kind).map(|result| !result),
            Expression::And(operands) => list(operands, false),
            Expression::Or(operands) => list(operands, true),
        }
    }

    /// Appends the steps of this expression, which continue with `then` if it is true and with `otherwise` if not. Returns the
    /// index of the step to start with.
    fn emit(&self, then: u16, otherwise: u16, steps: &mut Vec<Step>) -> u16 {
        match self {
            Expression::Check(check) => {
                steps.push(Step { check: *check, then, otherwise });
                steps.len() as u16 - 1
            }
            Expression::Not(inner) => inner.emit(otherwise, then, steps),
            Expression::And(all) => all.iter().rev().fold(then, |next, one| one.emit(next, otherwise, steps)),
            Expression::Or(any) => any.iter().rev().fold(otherwise, |next, one| one.emit(then, next, steps)),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (list, word) = match self {
            Expression::Check(check) => return check.fmt(out),
            Expression::Not(inner) => return write!(out, "not {}", Operand(inner)),
            Expression::And(list) => (list, "and"),
            Expression::Or(list) => (list, "or"),
        };
        for (at, operand) in list.iter().enumerate() {
            if at > 0 {
                write!(out, " {word} ")?;
            }
            Operand(operand).fmt(out)?;
        }
        Ok(())
    }
}

/// An operand: an expression that is displayed in parentheses if necessary.
struct Operand<'a>(&'a Expression);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::And(_) | Expression::Or(_) => write!(out, "({})", self.0),
            inner => inner.fmt(out),
        }
    }
}
