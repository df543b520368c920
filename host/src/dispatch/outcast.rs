//! Requests that are not run here: suspects go to another queue, those that are
//! given up are answered and parked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::suspicion::{MOST_CRASHES, Verdict};
use super::{Broker, Dispatcher, PublishError, ReplyAddress, Work};
use crate::message::{
    Answered, CallError, Death, Delivery, ErrorKind, Note, Place, Reason, Request, Settlement,
};
use crate::wire;

/// How long a lane that stops may take to put back what it has begun. As long
/// as a broker that hangs may hold up the end of a host.
const PUT_BACK: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// Moves a suspect to where it can do no harm. Where that is not possible
    /// it runs here: then the journal counts how often.
    pub(super) async fn isolate(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        crashes: u32,
        broker: &impl Broker,
    ) -> Settlement {
        // A host runs many at once, and two messages can look alike: only what
        // runs alone is found guilty.
        let most = if self.suspicion.is_lane() { crashes } else { MOST_CRASHES - 1 };
        let counted = crashes.min(most);
        let note = Note {
            reason: Reason::Crash,
            detail: format!(
                "a host died while the request ran, or may have, {counted} of {MOST_CRASHES} times"
            ),
            crashes: counted,
        };
        match self.set_aside(delivery, Place::Suspect, &note, broker).await {
            Ok(()) => Settlement::Ack,
            Err(PublishError::SessionLost) => Settlement::Requeue,
            Err(_) if crashes >= MOST_CRASHES => {
                self.quarantine(delivery, address, crashes, broker).await
            }
            Err(_) => self.serve(delivery, address, broker).await,
        }
    }

    /// Parks a request that has killed the process which only answered it.
    pub(super) async fn park_unanswered(
        &self,
        delivery: &Delivery,
        crashes: u32,
        broker: &impl Broker,
    ) -> Settlement {
        let detail = format!(
            "{crashes} processes died while the request ran or was answered, so it is not answered"
        );
        let note = Note { reason: Reason::Quarantined, detail, crashes };
        match self.set_aside(delivery, Place::Parked, &note, broker).await {
            Err(PublishError::SessionLost) => Settlement::Requeue,
            Ok(()) | Err(_) => Settlement::Ack,
        }
    }

    /// Gives a request up after repeated crashes.
    pub(super) async fn quarantine(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        crashes: u32,
        broker: &impl Broker,
    ) -> Settlement {
        let detail = format!("{crashes} processes died while the request ran");
        let text = format!(
            "{detail}; it is not run again and was set aside in `{}`",
            Place::Parked.queue(&delivery.queue)
        );
        let note = Note { reason: Reason::Quarantined, detail, crashes };
        let error = CallError::new(ErrorKind::Quarantined, text);
        self.give_up(delivery, address, &error, Some(&note), broker).await
    }

    /// Answers a request that the broker has taken out of its queue. Like
    /// [`Dispatcher::answer`], settles it exactly once.
    pub async fn bury(
        &self,
        delivery: &Delivery,
        death: Death,
        broker: &impl Broker,
    ) -> Settlement {
        if let Verdict::Suspect(crashes @ MOST_CRASHES..) = self.suspicion.judge(delivery).await {
            // Even answering it kills.
            let settlement = self.park_unanswered(delivery, crashes, broker).await;
            broker.settle(delivery.tag, settlement).await;
            return settlement;
        }
        self.telemetry.buried(death);
        let (kind, text) = match death {
            Death::Expired => (
                ErrorKind::DeadlineExceeded,
                "the request waited in the queue for longer than it may".to_owned(),
            ),
            Death::Full => (ErrorKind::Overloaded, "the queue is full".to_owned()),
            Death::Rejected => (
                ErrorKind::Internal,
                "another consumer of the queue has rejected the request".to_owned(),
            ),
            Death::DeliveryLimit => (
                ErrorKind::Quarantined,
                format!(
                    "the request was delivered as often as its queue allows, and never answered; \
                     it was set aside in `{}`",
                    Place::Parked.queue(&delivery.queue)
                ),
            ),
        };
        let note = (death == Death::DeliveryLimit).then(|| Note {
            reason: Reason::DeliveryLimit,
            detail: "delivered as often as the queue allows, and never answered".to_owned(),
            crashes: 0,
        });
        let error = CallError::new(kind, text);
        let settlement = match self.addresses.check(delivery) {
            Ok(address) => self.give_up(delivery, address, &error, note.as_ref(), broker).await,
            Err(refused) => {
                self.telemetry.reply_address_refused(refused);
                let nobody = ReplyAddress::Nobody;
                self.give_up(delivery, nobody, &error, note.as_ref(), broker).await
            }
        };
        broker.settle(delivery.tag, settlement).await;
        settlement
    }

    /// Parks a request, if it is worth it, and answers it with an error.
    async fn give_up(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        error: &CallError,
        note: Option<&Note>,
        broker: &impl Broker,
    ) -> Settlement {
        if let Some(note) = note
            // First, so that dying in between costs a second copy and not the only one.
            && let Err(PublishError::SessionLost) =
                self.set_aside(delivery, Place::Parked, note, broker).await
        {
            return Settlement::Requeue;
        }
        self.telemetry.answered(&Answered::unrouted(error.clone()), None);
        match self.all_failed(delivery, address, error) {
            Work::Answer(reply) => self.reply(delivery, address, reply, broker).await,
            _ => Settlement::Ack,
        }
    }

    /// Sets a request aside until the host gives up what it does.
    pub(super) async fn set_aside(
        &self,
        delivery: &Delivery,
        place: Place,
        note: &Note,
        broker: &impl Broker,
    ) -> Result<(), PublishError> {
        let put = tokio::select! {
            put = broker.set_aside(delivery, place, note) => put,
            () = self.stopping.given_up.cancelled() => Err(PublishError::SessionLost),
        };
        self.telemetry.set_aside(place, note, put);
        put
    }

    /// How a lane gives a request back: as one that was not begun. By way of
    /// the broker it would count as a crash.
    pub(super) async fn put_back(&self, delivery: &Delivery, broker: &impl Broker) -> Settlement {
        let Some(was) = delivery.set_aside.as_deref() else { return Settlement::Requeue };
        let note = Note { reason: Reason::Crash, detail: was.detail.clone(), crashes: was.crashes };
        let putting = broker.set_aside(delivery, Place::Suspect, &note);
        match tokio::time::timeout(PUT_BACK, putting).await {
            Ok(Ok(())) => Settlement::Ack,
            Ok(Err(_)) | Err(_) => Settlement::Requeue,
        }
    }

    /// The answer in which every call of a message has failed.
    pub(super) fn all_failed(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        error: &CallError,
    ) -> Work {
        // Reading it may be what has killed hosts.
        let _reading = self.suspicion.begin(delivery);
        let failing = AssertUnwindSafe(|| self.each_failed(delivery, address, error));
        catch_unwind(failing).unwrap_or_else(|_| self.unread(delivery, address, error.clone()))
    }

    fn each_failed(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        error: &CallError,
    ) -> Work {
        let decoded = match self.acceptable(delivery) {
            Ok(()) => wire::decode(delivery, delivery.terms.form),
            Err(refused) => wire::refuse(delivery, delivery.terms.form, refused),
        };
        let (calls, mut encoder) = decoded.into_parts(usize::MAX);
        for call in calls {
            let (request, to) = call.into_request();
            let find =
                |request: Request| self.plugins.find_on(&delivery.terms, request.method.as_deref());
            let found = request.ok().map(find);
            let plugin = found.and_then(Result::ok).map(|(plugin, _)| plugin.id().clone());
            let answered = Answered { outcome: Err(error.clone()), plugin };
            encoder.push(&to, answered);
        }
        super::finish(encoder, delivery, address)
    }
}
