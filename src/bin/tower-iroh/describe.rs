//! `tower-iroh describe`: a symbol of a peer's schema as `.proto` text.

use clap::Args;
use serde_json::{Value, json};

use crate::{
    call::{Schema, SchemaOptions, Symbol, ToJson, proto_text, template},
    failure::Failure,
    list::SchemaQuery,
    print,
};

/// Describe a service, a method, a message, or whatever else the schema has; without a symbol all services.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tower-iroh describe TICKET shop.v1.Orders\n  tower-iroh describe TICKET shop.v1.GetRequest -msg-template"
)]
pub(crate) struct Options {
    /// Print a message's fields as JSON too, to be filled in.
    #[arg(long)]
    msg_template: bool,
    #[command(flatten)]
    query: SchemaQuery,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let with_template = options.msg_template;
    let work = move |mut schema: Schema, symbol: Option<String>, options: SchemaOptions| async move {
        let names = match symbol {
            Some(name) => vec![name],
            None => schema.services().await?,
        };
        let mut symbols = Vec::new();
        for name in &names {
            symbols.push(schema.require(name).await?);
        }
        options.save(symbols.iter().map(Symbol::file))?;
        let mut described = Vec::new();
        for symbol in &symbols {
            let text = proto_text(symbol);
            let example = template_of(symbol, &schema).filter(|_| with_template);
            if json {
                described.push(entry(symbol, text, example));
                continue;
            }
            print::line(format!(
                "{} is {}:\n{text}",
                symbol.full_name(),
                symbol.kind()
            ))?;
            if let Some(example) = example {
                print::line(format!("\nMessage template:\n{example:#}"))?;
            }
        }
        match json {
            true => print::line(json!({ "symbols": described }).to_string()),
            false => Ok(()),
        }
    };
    options.query.with_schema(json, work).await
}

/// An example, if the symbol is a message.
fn template_of(symbol: &Symbol, schema: &Schema) -> Option<Value> {
    let Symbol::Message(message) = symbol else {
        return None;
    };
    let to_json = ToJson {
        types: schema.pools(),
        emit_defaults: true,
        ..ToJson::default()
    };
    Some(to_json.message(&template(message)))
}

fn entry(symbol: &Symbol, text: String, example: Option<Value>) -> Value {
    let kind = symbol.kind();
    let kind = kind.strip_prefix("a ").or(kind.strip_prefix("an "));
    let mut entry = json!({ "name": symbol.full_name(), "kind": kind, "proto": text });
    if let Some(example) = example {
        entry["template"] = example;
    }
    entry
}
