//! The syntax tree of a filter, and its translation to a program of checks.

use std::fmt;

use crate::check::{ACCEPT, Check, REJECT, Step};

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
