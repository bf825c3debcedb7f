"""Checks docs/openapi.json with two validators that know nothing of each other, and its examples against its schemas.

- openapi-spec-validator: the JSON Schema of OpenAPI 3.1, and the rules that a schema cannot express, such as unique operation ids
- openapi-pydantic: a typed model of OpenAPI 3.1
- openapi-schema-validator: JSON Schema 2020-12 as OpenAPI 3.1 uses it, for the examples
"""

import json
import sys

from openapi_pydantic.v3.v3_1 import OpenAPI
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

# Binary content.
WITHOUT_EXAMPLE = {("get", "/v1/capture"), ("get", "/v1/openapi.json")}


def contents(operation):
    """All bodies of an operation: of the request, and of each response."""
    yield "request", operation.get("requestBody", {}).get("content", {})
    for status, response in operation["responses"].items():
        yield status, response.get("content", {})


def examples(document):
    """Each example with its schema, or None where there is no example."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", []):
                yield f"{method} {path} {parameter['name']}", parameter["schema"], parameter.get("example")
            if (method, path) in WITHOUT_EXAMPLE:
                continue
            for part, content in contents(operation):
                for media_type, body in content.items():
                    yield f"{method} {path} {part} {media_type}", body["schema"], body.get("example")


def main():
    document = json.load(open(sys.argv[1]))
    problems = [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]
    OpenAPI.model_validate(document)
    count = 0
    for where, schema, example in examples(document):
        count += 1
        if example is None:
            problems.append(f"{where}: no example")
            continue
        # References are resolved in the document.
        validator = OAS31Validator({**schema, "components": document["components"]})
        problems += [f"{where}: {error.message}" for error in validator.iter_errors(example)]
    for problem in problems:
        print(problem)
    print(f"{sys.argv[1]}: {len(document['paths'])} paths, {count} examples, {len(problems)} problems")
    sys.exit(1 if problems else 0)


main()
