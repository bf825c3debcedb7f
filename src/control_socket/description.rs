//! The description of the API as it is published: what utoipa derives from the handlers and types, completed by what holds for all
//! operations.
//!
//! - *Operation ids* are made of the subject and the handler's name (`fdb_list`), so that no two are alike.
//! - *Errors*: the responses that every operation may have, all with a [`api::Problem`] as their body.
//! - *Examples* are in [`examples.json`](examples.json), by method and path. Tests compare them with the schemas.

use api::PROBLEM_JSON;
use serde_json::Value;
use utoipa::Modify;
use utoipa::openapi::path::{Operation, ParameterBuilder};
use utoipa::openapi::{Content, ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

/// Requests and responses, by method and path; and problems, by status.
const EXAMPLES: &str = include_str!("examples.json");

/// Completes the description.
#[derive(Debug)]
pub(super) struct Complete;

impl Modify for Complete {
    fn modify(&self, document: &mut OpenApi) {
        let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
        for (path, item) in &mut document.paths.paths {
            let operations = [
                ("GET", &mut item.get),
                ("POST", &mut item.post),
                ("PUT", &mut item.put),
                ("DELETE", &mut item.delete),
                ("PATCH", &mut item.patch),
            ];
            for (method, operation) in operations {
                let Some(operation) = operation else { continue };
                identify(operation);
                add_errors(operation);
                add_examples(operation, &examples[format!("{method} {path}")], &examples["problems"]);
            }
        }
    }
}

/// Puts the subject, which is the name of the handler's file, before the handler's name.
fn identify(operation: &mut Operation) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first());
    if let (Some(tag), Some(id)) = (tag, &operation.operation_id)
        && tag != id
    {
        operation.operation_id = Some(format!("{tag}_{id}"));
    }
}

/// Adds the errors that every operation may answer with.
fn add_errors(operation: &mut Operation) {
    let mut errors = vec![("403", "The client has no right to this"), ("503", "The switch is busy or shutting down")];
    if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) || operation.request_body.is_some() {
        errors.push(("400", "A parameter or the request body cannot be read"));
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        errors.extend([("413", "The request body has more than 256 KiB"), ("415", "The request body is not marked as JSON")]);
        errors.push(("422", "The request body does not fit its schema"));
        body.description.get_or_insert_with(|| "What is wanted".to_owned());
    }
    for (status, description) in errors {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.into());
    }
    // Those that the handlers add are described as JSON of any kind.
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if !status.starts_with('2')
            && let Some(content) = response.content.shift_remove("application/json")
        {
            response.content.insert(PROBLEM_JSON.to_owned(), content);
        }
    }
}

/// Adds the examples of an operation.
fn add_examples(operation: &mut Operation, examples: &Value, problems: &Value) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            let example = examples["parameters"].get(&parameter.name).cloned();
            *parameter = ParameterBuilder::from(std::mem::take(parameter)).example(example).build();
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        set_example(body.content.values_mut(), examples.get("request"));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let example = if status.starts_with('2') { examples.get("response") } else { problems.get(status) };
        set_example(response.content.values_mut(), example);
    }
}

fn set_example<'a>(contents: impl Iterator<Item = &'a mut RefOr<Content>>, example: Option<&Value>) {
    for content in contents {
        if let RefOr::T(content) = content {
            content.example = example.cloned();
        }
    }
}
