//! The list of brokers: by flag, by variable or as `[[broker]]` in the file, never a mixture.
//!
//! Knows how the list is put together and which parts of it make no difference; refuses to know the
//! forms of the addresses and who connects.

use super::args::ServeArgs;
use super::bounds;
use super::broker_url::BrokerUrl;
use super::file::Section;
use super::layers::Layers;
use super::management_url::ManagementUrl;
use super::problem::{Origin, Problems};
use super::units::count;
use super::values;
use super::written::Raw;
use super::{Broker, DEFAULT_WEIGHT, Environment, Strategy};

/// The list of tables in the file.
pub(super) const BROKER: &str = "broker";
/// What one of those tables may have.
pub(super) const BROKER_KEYS: [&str; 3] = ["url", "weight", "management"];

/// Said of an URL on the command line that holds one.
pub const PASSWORD_IN_FLAG: &str = "the password in `--amqp-url` can be seen in the list of \
    processes; use `RPCHOST_AMQP_URL`, `RPCHOST_AMQP_PASSWORD_FILE` or the file instead";

/// The brokers of one run, with their passwords; at least one, unless there are problems.
///
/// The highest layer that names a broker gives the whole list. In the file, `amqp-url` and
/// `[[broker]]` are two ways to write it, and one has to be chosen.
pub(super) fn brokers(
    layers: &mut Layers<'_>,
    args: &ServeArgs,
    environment: Environment<'_>,
    strategy: Strategy,
    warnings: &mut Vec<String>,
) -> Vec<Broker> {
    let urls = layers.many("amqp-url", &args.amqp_url, |raw| BrokerUrl::parse(raw.text()?));
    let tables = match &urls {
        Some((Origin::Flag(_) | Origin::Environment(_), _)) => None,
        Some((Origin::File { .. }, _)) | None => in_file(layers, strategy, warnings),
    };
    let mut brokers: Vec<Broker> = match (urls, tables) {
        (Some((origin, urls)), tables) => {
            if tables.is_some() {
                layers.problems.add(
                    origin,
                    "stands beside `[[broker]]`; make it a `[[broker]]` with `url`, or leave one \
                     of the two out",
                );
            } else if matches!(origin, Origin::Flag(_))
                && urls.iter().any(BrokerUrl::names_password)
            {
                warnings.push(PASSWORD_IN_FLAG.to_owned());
            }
            urls.into_iter().map(Broker::from).collect()
        }
        (None, Some(brokers)) => brokers,
        (None, None) => {
            vec![BrokerUrl::from_environment(environment, &mut layers.problems).into()]
        }
    };
    let password = layers.one("amqp-password-file", &args.amqp_password_file, |raw| {
        values::password_file(raw.text()?)
    });
    for broker in &mut brokers {
        if let Some(password) = &password {
            broker.url = broker.url.clone().with_password(password);
        }
        broker.management =
            broker.management.take().map(|management| management.or_as_user_of(&broker.url));
    }
    warn_of_unknown_numbers(&brokers, strategy, warnings);
    brokers
}

/// Those that stand as `[[broker]]` in the file; nothing if there is no such table.
fn in_file(
    layers: &mut Layers<'_>,
    strategy: Strategy,
    warnings: &mut Vec<String>,
) -> Option<Vec<Broker>> {
    let mut problems = Problems::default();
    let sections = layers.in_file().list(BROKER);
    if sections.is_empty() {
        return None;
    }
    let brokers: Vec<Broker> =
        sections.iter().filter_map(|section| broker(section, &mut problems)).collect();
    let says = |key: &str| sections.iter().any(|section| section.find(key).is_some());
    if says("weight") && !strategy.uses_weights() {
        warnings.push(format!(
            "the strategy `{strategy}` does not use `weight`; `weighted-round-robin`, \
             `weighted-random` and `source-hash` do"
        ));
    }
    if says("management") && strategy != Strategy::LeastConnections {
        warnings.push(format!(
            "the strategy `{strategy}` does not use `management`; `least-connections` does"
        ));
    }
    for broker in &brokers {
        if let Some(management) = &broker.management
            && broker.url.is_tls()
            && management.is_open()
            && !management.names_user()
        {
            warnings.push(format!(
                "the password for `{}` can be read on its way to `{management}`; use `https`, or \
                 another user there",
                broker.url
            ));
        }
    }
    for problem in problems.iter() {
        layers.problems.add(problem.origin.clone(), problem.text.clone());
    }
    Some(brokers)
}

/// One table; nothing if there is no address that can be used.
fn broker(section: &Section, problems: &mut Problems) -> Option<Broker> {
    let Some(url) = section.find("url") else {
        problems.add(section.origin.clone(), "needs a `url` such as `amqp://user@host/vhost`");
        return None;
    };
    let url = url.one(problems, |raw| BrokerUrl::parse(raw.text()?));
    let weight = section
        .find("weight")
        .and_then(|weight| weight.one(problems, |raw: &Raw| count(raw.number()?, &bounds::WEIGHT)));
    let management = section
        .find("management")
        .and_then(|url| url.one(problems, |raw| ManagementUrl::parse(raw.text()?)));
    Some(Broker { url: url?, weight: weight.unwrap_or(DEFAULT_WEIGHT), management })
}

/// With one broker there is nothing to choose, and nothing to warn of.
fn warn_of_unknown_numbers(brokers: &[Broker], strategy: Strategy, warnings: &mut Vec<String>) {
    let unknown = brokers.iter().filter(|broker| broker.management.is_none()).count();
    if strategy != Strategy::LeastConnections || brokers.len() < 2 || unknown == 0 {
        return;
    }
    warnings.push(if unknown == brokers.len() {
        "the strategy `least-connections` has nobody to ask: no broker has `management`; they are \
         tried in any order"
            .to_owned()
    } else {
        format!(
            "{unknown} of {} brokers have no `management`; with `least-connections` they come \
             after the others",
            brokers.len()
        )
    });
}
