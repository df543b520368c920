//! Samples as a table and as pictures.

use std::fmt::Write as _;

use super::cases::Case;
use super::servers::Peer;
use super::{Sample, Samples};

/// Of all rounds.
#[derive(Debug, Clone, Copy)]
struct Medians {
    sample: Sample,
    /// Calls a second, relative to those of the first peer in the same round.
    ratio: f64,
    /// The lowest and the highest number of calls a second.
    range: (f64, f64),
}

/// The middle one; of two the mean.
pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn medians(samples: &Samples, case: usize, peer: usize, first: usize) -> Option<Medians> {
    let of = samples.get(&(case, peer))?;
    let middle = |number: fn(&Sample) -> f64| median(of.iter().map(number));
    let base = samples.get(&(case, first));
    let ratios = base
        .into_iter()
        .flat_map(|base| of.iter().zip(base).map(|(sample, base)| sample.rate / base.rate));
    let rates = || of.iter().map(|sample| sample.rate);
    Some(Medians {
        sample: Sample {
            rate: middle(|sample| sample.rate),
            p50: middle(|sample| sample.p50),
            p99: middle(|sample| sample.p99),
            server: middle(|sample| sample.server),
            broker: middle(|sample| sample.broker),
            client: middle(|sample| sample.client),
        },
        ratio: median(ratios),
        range: (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max)),
    })
}

/// What it was measured on, and how.
pub(crate) fn about(machine: &[String], rounds: usize, duration: &str) -> String {
    let mut text = String::new();
    for line in machine {
        let _infallible = writeln!(text, "- {line}");
    }
    let _infallible = writeln!(
        text,
        "- {rounds} round{} of {duration} for each, in turns, on one private broker; medians. CPU is \
         in ms per 1,000 calls.",
        if rounds == 1 { "" } else { "s" }
    );
    text
}

/// A row for each case, with the peers side by side.
pub(crate) fn scaling(peers: &[Peer], cases: &[(usize, Case)], samples: &Samples) -> String {
    let mut text = "\n| |".to_owned();
    for peer in peers {
        text += &format!(" {0} calls a second | p50 ms | p99 ms | CPU | broker |", peer.name);
    }
    text += "\n|---|";
    text += &"--:|".repeat(5 * peers.len());
    text += "\n";
    for (number, case) in cases {
        let _infallible = write!(text, "| {} |", case.title);
        for which in 0..peers.len() {
            let Some(Medians { sample, .. }) = medians(samples, *number, which, 0) else {
                text += " – | | | | |";
                continue;
            };
            let _infallible = write!(
                text,
                " {:.0} | {:.2} | {:.2} | {:.1} | {:.1} |",
                sample.rate,
                sample.p50 / 1e3,
                sample.p99 / 1e3,
                sample.server,
                sample.broker,
            );
        }
        text += "\n";
    }
    text
}

/// Peers beside each other, in Markdown.
pub(crate) fn table(peers: &[Peer], cases: &[(usize, Case)], samples: &Samples) -> String {
    let mut text = String::new();
    for (number, case) in cases {
        if !samples.keys().any(|(of, _)| of == number) {
            continue;
        }
        let _infallible = writeln!(
            text,
            "\n### {}\n\n| server | calls a second | lowest – highest | relative | p50 ms | p99 ms | \
             CPU server | broker | client |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            case.title
        );
        for (which, peer) in peers.iter().enumerate() {
            let Some(of) = medians(samples, *number, which, 0) else {
                let _infallible = writeln!(text, "| {} | – | | | | | | | |", peer.title);
                continue;
            };
            let Medians { sample, ratio, range } = of;
            let _infallible = writeln!(
                text,
                "| {} | {:.0} | {:.0} – {:.0} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} |",
                peer.title,
                sample.rate,
                range.0,
                range.1,
                ratio,
                sample.p50 / 1e3,
                sample.p99 / 1e3,
                sample.server,
                sample.broker,
                sample.client,
            );
        }
    }
    text
}

/// Columns of the picture, in pixels.
const NAMES: f64 = 120.0;
const BARS: f64 = 300.0;
const GAP: f64 = 90.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;

/// Bars of calls a second, and of the processor time of server, broker and client.
pub(crate) fn picture(case: &Case, peers: &[Peer], number: usize, samples: &Samples) -> String {
    let rows: Vec<(&Peer, Medians)> = peers
        .iter()
        .enumerate()
        .filter_map(|(which, peer)| Some((peer, medians(samples, number, which, 0)?)))
        .collect();
    let cpu = |sample: &Sample| sample.server + sample.broker + sample.client;
    let fastest = rows.iter().map(|(_, of)| of.sample.rate).fold(1.0, f64::max);
    let dearest = rows.iter().map(|(_, of)| cpu(&of.sample)).fold(1.0, f64::max);
    let second = NAMES + BARS + GAP;
    let (width, height) = (second + BARS + GAP, TOP + ROW * rows.len() as f64 + 12.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\">{}</text>\n\
         <text x=\"{NAMES}\" y=\"50\">calls a second</text>\n\
         <text x=\"{second}\" y=\"50\">CPU ms per 1,000 calls: \
         <tspan fill=\"#1f69b0\">server</tspan>, <tspan fill=\"#d66e0e\">broker</tspan>, \
         <tspan fill=\"#888\">client</tspan></text>\n",
        case.title
    );
    let bar = |x: f64, y: f64, width: f64, color: &str| {
        format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"16\" fill=\"{color}\"/>\n"
        )
    };
    for (row, (peer, of)) in rows.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let text = |x: f64, anchor: &str, text: &str| {
            format!(
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>\n",
                y + 13.0
            )
        };
        let ours = peer.name.starts_with("rpchost");
        let color = if ours { "#1f69b0" } else { "#9bb8d3" };
        let long = BARS * of.sample.rate / fastest;
        svg += &text(NAMES - 8.0, "end", peer.name);
        svg += &bar(NAMES, y, long, color);
        svg += &text(NAMES + long + 6.0, "start", &format!("{:.0}", of.sample.rate));
        let mut x = second;
        for (time, color) in [
            (of.sample.server, "#1f69b0"),
            (of.sample.broker, "#d66e0e"),
            (of.sample.client, "#888"),
        ] {
            let long = BARS * time / dearest;
            svg += &bar(x, y, long, color);
            x += long;
        }
        svg += &text(x + 6.0, "start", &format!("{:.0}", cpu(&of.sample)));
    }
    svg += "</svg>\n";
    svg
}
