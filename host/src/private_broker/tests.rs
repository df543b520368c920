//! A private broker through its life, and the end of its owner.

use std::{env, io::BufRead as _};

use super::*;

/// Set for the process that one of these tests starts in order to kill it.
const OWNER: &str = "RPCHOST_TEST_BROKER_OWNER";

#[tokio::test]
async fn a_broker_is_killed_frozen_stopped_and_comes_back_with_its_data() {
    let mut broker = PrivateBroker::start().await.unwrap();
    let (port, first) = (broker.port(), broker.pid().await.unwrap());
    assert_eq!(broker.amqp_url(), format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
    assert!(broker.ctl(&["status"]).await.unwrap().contains("127.0.0.1"));
    let error = broker.ctl(&["no_such_thing"]).await.unwrap_err().to_string();
    assert!(error.contains("`rabbitmqctl no_such_thing` failed"), "{error}");
    let error = broker.start_again().await.unwrap_err().to_string();
    assert!(error.contains("still runs"), "{error}");
    broker.ctl(&["add_user", "kept", "secret"]).await.unwrap();

    broker.kill().await.unwrap();
    assert_eq!(broker.pid().await, None);
    assert!(!speaks_amqp(port).await);
    broker.start_again().await.unwrap();
    assert_ne!(broker.pid().await.unwrap(), first);
    assert!(broker.ctl(&["list_users"]).await.unwrap().contains("kept"));

    broker.freeze().await.unwrap();
    assert!(!speaks_amqp(port).await);
    broker.thaw().await.unwrap();
    assert!(speaks_amqp(port).await);

    broker.stop().await.unwrap();
    broker.stop().await.unwrap();
    broker.start_again().await.unwrap();
    assert_eq!(broker.port(), port);
    assert!(speaks_amqp(port).await);

    let directory = broker.directory().to_owned();
    broker.remove().await.unwrap();
    assert!(!directory.exists());
    assert!(!speaks_amqp(port).await);
}

/// Not a test unless told so: the process that [`nothing_stays_of_an_owner_killed_with_a_frozen_broker`] kills.
#[tokio::test]
async fn an_owner_that_is_killed() {
    if env::var_os(OWNER).is_none() {
        return;
    }
    let mut broker = PrivateBroker::start().await.unwrap();
    broker.kill().await.unwrap();
    broker.start_again().await.unwrap();
    broker.freeze().await.unwrap();
    std::io::stdout()
        .write_all(
            format!("\nowns {} {}\n", broker.port(), broker.directory().display()).as_bytes(),
        )
        .unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_stays_of_an_owner_killed_with_a_frozen_broker() {
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "private_broker::tests::an_owner_that_is_killed"])
        .env(OWNER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(owner.stdout.take().unwrap());
    let owns = output
        .lines()
        .map(Result::unwrap)
        .find(|line| line.starts_with("owns "))
        .expect("a broker");
    let [_, port, directory] = owns.split(' ').collect::<Vec<_>>()[..] else { panic!("{owns}") };
    assert!(Path::new(directory).exists());
    // The ports of a block: its claim, epmd, AMQP.
    let epmd = port.parse::<u16>().unwrap() - 1;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, epmd)).await.is_ok());

    owner.kill().unwrap();
    owner.wait().unwrap();
    let gone = async {
        while Path::new(directory).exists()
            || TcpStream::connect((Ipv4Addr::LOCALHOST, epmd)).await.is_ok()
        {
            sleep(POLL).await;
        }
    };
    timeout(REMOVE_DEADLINE, gone).await.expect("directory and epmd are gone");
}
