//! What is measured, one file each.

use crate::{cli::Plan, fault::Fault, record::Section};

pub mod changes;
mod common;
pub mod connect;
pub mod grid;
pub mod head_of_line;
pub mod links;
pub mod partition;
pub mod priority;

/// Something that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub run: fn(&Plan, &mut Section) -> Result<(), Fault>,
}

/// In the order in which they run.
pub const ALL: [Scenario; 7] = [
    Scenario {
        name: "links",
        title: "Seven links: small calls alone, bulk alone, both together",
        run: links::run,
    },
    Scenario {
        name: "priority",
        title: "Control calls beside bulk on a narrow link",
        run: priority::run,
    },
    Scenario {
        name: "head_of_line",
        title: "Control calls beside bulk on a link that loses packets",
        run: head_of_line::run,
    },
    Scenario {
        name: "connect",
        title: "Connecting and the first call",
        run: connect::run,
    },
    Scenario {
        name: "grid",
        title: "Bulk: the default against fixed settings",
        run: grid::run,
    },
    Scenario {
        name: "changes",
        title: "The link changes for good while bulk runs on it",
        run: changes::run,
    },
    Scenario {
        name: "partition",
        title: "The link is cut in the middle of calls and a stream",
        run: partition::run,
    },
];
