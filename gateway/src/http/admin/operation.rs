//! One operation of the admin API: where it is, who may call it, what does it and how it is documented, in one place,
//! so that nothing is served that the document does not know.

use axum::{
    extract::{DefaultBodyLimit, Request},
    handler::Handler,
    middleware::{Next, from_fn},
    routing::{MethodFilter, MethodRouter, on},
};
use utoipa::{
    IntoParams, PartialSchema as _, ToSchema,
    openapi::{
        Content, Header, HttpMethod, ObjectBuilder, Ref, RefOr, Required, Response, Type,
        path::{Operation as Documented, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        response::{ResponseBuilder, ResponsesBuilder},
        schema::Schema,
        security::SecurityRequirement,
    },
};

use super::{Admin, caller::guard};
use crate::{
    api::{PROBLEM_MEDIA_TYPE, Problem, Role},
    http::problem::Kind,
};

/// Name of the only security scheme.
pub(super) const MUTUAL_TLS: &str = "mutualTLS";

const JSON: &str = "application/json";

/// What can go wrong everywhere.
const EVERYWHERE: [Kind; 3] = [Kind::RoleNeeded, Kind::IdentityNotValid, Kind::Overloaded];

/// A body that is taken or given.
struct Shape {
    media_type: &'static str,
    schema: RefOr<Schema>,
}

/// One operation.
pub(crate) struct Operation {
    method: HttpMethod,
    path: &'static str,
    role: Role,
    handler: MethodRouter<Admin>,
    id: &'static str,
    summary: &'static str,
    description: String,
    parameters: Vec<Parameter>,
    body: Option<(Required, Shape)>,
    answers: Vec<Shape>,
    tagged: bool,
    problems: Vec<Kind>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Operation {
    /// `handler` for requests of `method` to `path`, whose callers need at least `role`. `id` names the operation in
    /// generated clients.
    pub(crate) fn new<H, T>(
        method: HttpMethod,
        path: &'static str,
        role: Role,
        (id, summary): (&'static str, &'static str),
        handler: H,
    ) -> Self
    where
        H: Handler<T, Admin>,
        T: 'static,
    {
        let mut operation = Self {
            handler: on(filter(&method), handler),
            method,
            path,
            role,
            id,
            summary,
            description: format!("Needs the role `{role}`."),
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            tagged: false,
            problems: EVERYWHERE.to_vec(),
            schemas: Vec::new(),
        };
        operation.schema::<Problem>();
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        for name in names {
            let text = match name {
                "trust_domain" => Some("Bare name of the trust domain, or its SPIFFE ID."),
                "webhook" => Some("Name of the webhook in the configuration."),
                _ => None,
            };
            operation.parameters.push(
                ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .description(text)
                    .schema(Some(String::schema()))
                    .build(),
            );
            if name == "trust_domain" {
                operation.problems.push(Kind::BadTrustDomain);
            }
        }
        operation
    }

    /// Adds to the description.
    pub(crate) fn remark(mut self, text: &str) -> Self {
        self.description.push(' ');
        self.description.push_str(text);
        self
    }

    /// It takes these parameters in its query.
    pub(crate) fn query<P: IntoParams>(mut self) -> Self {
        self.parameters.extend(P::into_params(|| Some(ParameterIn::Query)));
        self.problems.push(Kind::BadQuery);
        self
    }

    /// It gives a list in pages; its query has `limit` and `page_token`.
    pub(crate) fn paged<P: IntoParams>(mut self) -> Self {
        self.problems.push(Kind::BadPageToken);
        self.query::<P>()
    }

    /// It takes a body of up to so many bytes, unlike the others.
    pub(crate) fn body_limit(mut self, bytes: usize) -> Self {
        self.handler = self.handler.layer(DefaultBodyLimit::max(bytes));
        self
    }

    /// It takes this body.
    pub(crate) fn body<T: ToSchema>(self) -> Self {
        self.takes::<T>(Required::True)
    }

    /// It takes this body, or none.
    pub(crate) fn optional_body<T: ToSchema>(self) -> Self {
        self.takes::<T>(Required::False)
    }

    fn takes<T: ToSchema>(mut self, required: Required) -> Self {
        let schema = self.schema::<T>();
        self.body = Some((required, Shape { media_type: JSON, schema }));
        self.problems.extend([Kind::BadBody, Kind::BodyTooLarge, Kind::NotJson]);
        self
    }

    /// It answers this as JSON.
    pub(crate) fn answers<T: ToSchema>(mut self) -> Self {
        let schema = self.schema::<T>();
        self.answers.push(Shape { media_type: JSON, schema });
        self
    }

    /// It answers text of this media type.
    pub(crate) fn answers_text(mut self, media_type: &'static str) -> Self {
        self.answers.push(Shape { media_type, schema: String::schema() });
        self
    }

    /// It answers a JSON document that is described elsewhere.
    pub(crate) fn answers_document(mut self) -> Self {
        let schema = ObjectBuilder::new().schema_type(Type::Object).build();
        self.answers.push(Shape { media_type: JSON, schema: schema.into() });
        self
    }

    /// Its answer has an `ETag`. A `GET` honours `If-None-Match`, any other method takes `If-Match`.
    pub(crate) fn tagged(mut self) -> Self {
        self.tagged = true;
        let (name, text) = match self.method {
            HttpMethod::Get => ("If-None-Match", "ETags of copies the client has; 304 if one of them is still good."),
            _ => {
                self.problems.extend([Kind::BadCondition, Kind::Changed]);
                ("If-Match", "ETag of the state the request is about; 412 and nothing is done if it is another one.")
            }
        };
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).required(Required::False);
        self.parameters.push(parameter.description(Some(text)).schema(Some(String::schema())).build());
        self
    }

    /// What else can go wrong.
    pub(crate) fn problems(mut self, kinds: &[Kind]) -> Self {
        self.problems.extend(kinds);
        self
    }

    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        Ref::from_schema_name(T::name()).into()
    }

    /// The path, as the router and the document write it.
    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    /// The method.
    pub(super) fn method(&self) -> HttpMethod {
        self.method.clone()
    }

    /// The schemas it refers to.
    pub(super) fn schemas(&self) -> &[(String, RefOr<Schema>)] {
        &self.schemas
    }

    /// What the router takes. Nobody without the role gets to the handler.
    pub(super) fn into_route(self) -> MethodRouter<Admin> {
        let needed = self.role;
        self.handler.route_layer(from_fn(move |request: Request, next: Next| guard(needed, request, next)))
    }

    /// What the document says.
    pub(super) fn documented(&self) -> Documented {
        let tag = self.path.split('/').nth(2).unwrap_or_default();
        let builder = OperationBuilder::new()
            .tag(tag)
            .operation_id(Some(self.id))
            .summary(Some(self.summary))
            .description(Some(self.description.as_str()))
            .security(SecurityRequirement::new(MUTUAL_TLS, [self.role.as_str()]))
            .responses(self.responses());
        let builder = match self.parameters.is_empty() {
            true => builder,
            false => builder.parameters(Some(self.parameters.iter().cloned())),
        };
        match &self.body {
            None => builder.build(),
            Some((required, Shape { media_type, schema })) => {
                let body = RequestBodyBuilder::new().content(*media_type, Content::new(Some(schema.clone())));
                builder.request_body(Some(body.required(Some(required.clone())).build())).build()
            }
        }
    }

    fn responses(&self) -> ResponsesBuilder {
        let mut success = ResponseBuilder::new().description("Done.");
        for Shape { media_type, schema } in &self.answers {
            success = success.content(*media_type, Content::new(Some(schema.clone())));
        }
        let tag = || {
            let mut tag = Header::new(String::schema());
            tag.description = Some("Names this state of the resource.".to_owned());
            tag
        };
        if self.tagged {
            success = success.header("ETag", tag());
        }
        let mut responses = ResponsesBuilder::new().response("200", success.build());
        if self.tagged && self.method == HttpMethod::Get {
            let unchanged =
                ResponseBuilder::new().description("The client's copy is still good.").header("ETag", tag());
            responses = responses.response("304", unchanged.build());
        }
        let mut kinds = self.problems.clone();
        kinds.sort_by_key(|kind| (kind.status(), *kind));
        kinds.dedup();
        for same_status in kinds.chunk_by(|a, b| a.status() == b.status()) {
            let Some(first) = same_status.first() else { continue };
            responses = responses.response(first.status().as_str(), problem(same_status));
        }
        responses
    }
}

fn problem(kinds: &[Kind]) -> Response {
    let types: Vec<String> = kinds.iter().map(|kind| format!("`{}`", kind.uri())).collect();
    let schema: RefOr<Schema> = Ref::from_schema_name(Problem::name()).into();
    ResponseBuilder::new().description(types.join(", ")).content(PROBLEM_MEDIA_TYPE, Content::new(Some(schema))).build()
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    }
}
