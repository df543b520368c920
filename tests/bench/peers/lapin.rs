//! An RPC server in plain lapin, to compare with: `lapin MODE URL QUEUE WORK`.
//!
//! MODE is `spawn`, as one would write it: a task for each message, which
//! publishes the reply and acks, without confirms. Or it is `batch`, lapin at
//! its best with the host's promise: whatever is there is answered together,
//! confirmed, and acked at once.

#![expect(clippy::print_stdout, reason = "a program that says when it is ready")]

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    PublisherConfirm,
};

/// Enough for one that spawns; more brings it nothing.
const PREFETCH: u16 = 100;

/// Larger batches need fewer acks and confirms.
const PREFETCH_OF_BATCHES: u16 = 500;

#[derive(Debug, Clone, Copy)]
enum Work {
    Echo,
    Fib,
}

impl Work {
    fn answer(self, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Echo => body.to_vec(),
            Self::Fib => {
                let number = String::from_utf8_lossy(body).trim().parse().unwrap_or(0);
                fib(number).to_string().into_bytes()
            }
        }
    }
}

/// The tutorial's algorithm.
fn fib(n: u64) -> u64 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, url, queue, work] = args.as_slice() else {
        bail!("usage: lapin spawn|batch URL QUEUE echo|fib");
    };
    let work = match work.as_str() {
        "echo" => Work::Echo,
        "fib" => Work::Fib,
        other => bail!("`{other}`: echo or fib"),
    };
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let batches = mode == "batch";
    let prefetch = if batches { PREFETCH_OF_BATCHES } else { PREFETCH };
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    if batches {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    let options = BasicConsumeOptions::default();
    let requests = channel
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await?;
    println!("ready");
    if batches {
        batch(channel, requests, work).await
    } else {
        spawn(channel, requests, work).await
    }
}

async fn spawn(channel: Channel, mut requests: Consumer, work: Work) -> Result<()> {
    while let Some(request) = requests.next().await {
        let (request, channel) = (request?, channel.clone());
        tokio::spawn(async move {
            let answered = async {
                publish(&channel, &request, work).await?;
                request.ack(BasicAckOptions::default()).await?;
                Ok(())
            };
            let answered: Result<()> = answered.await;
            if let Err(error) = answered {
                println!("not answered: {error:#}");
            }
        });
    }
    bail!("the queue is gone")
}

async fn batch(channel: Channel, mut requests: Consumer, work: Work) -> Result<()> {
    while let Some(request) = requests.next().await {
        let mut batch = vec![request?];
        while batch.len() < usize::from(PREFETCH_OF_BATCHES)
            && let Some(next) = requests.next().now_or_never()
        {
            batch.push(next.context("the queue is gone")??);
        }
        let published = batch.iter().map(|request| publish(&channel, request, work));
        let confirms = try_join_all(published).await?;
        for confirmation in try_join_all(confirms).await? {
            if matches!(confirmation, Confirmation::Nack(_)) {
                bail!("a reply was refused");
            }
        }
        if let Some(last) = batch.last() {
            channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    bail!("the queue is gone")
}

async fn publish(channel: &Channel, request: &Delivery, work: Work) -> Result<PublisherConfirm> {
    let to = request.properties.reply_to().clone().context("no reply address")?;
    let mut properties = BasicProperties::default();
    if let Some(id) = request.properties.correlation_id() {
        properties = properties.with_correlation_id(id.clone());
    }
    if let Some(mode) = request.properties.delivery_mode() {
        properties = properties.with_delivery_mode(*mode);
    }
    let options = BasicPublishOptions::default();
    let body = work.answer(&request.data);
    Ok(channel.basic_publish(ShortString::default(), to, options, &body, properties).await?)
}
