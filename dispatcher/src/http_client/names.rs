//! Names to addresses, by the machine's resolver. It can't be interrupted and holds a thread as long as it takes,
//! so each name is looked up once at a time: a name server that never answers costs one thread, however many
//! deliveries wait for it. Nothing is kept: names change their addresses, and who relies on one judges it anew.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

const DEADLINE: Duration = Duration::from_secs(5);

type Answer = Result<Arc<[IpAddr]>, Unresolved>;
type LookUp = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The name has no address that could be found.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unresolved(String);

#[derive(Clone)]
pub(super) struct Names {
    look_up: LookUp,
    under_way: Arc<Mutex<HashMap<String, Shared<BoxFuture<'static, Answer>>>>>,
}

impl Names {
    pub(super) fn of_this_machine() -> Self {
        Self::looked_up_by(|name| Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect()))
    }

    pub(super) fn looked_up_by(
        look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { look_up: Arc::new(look_up), under_way: Arc::default() }
    }

    /// At least one address.
    ///
    /// # Errors
    /// There is none, or no answer in time.
    pub(super) async fn resolve(&self, name: &str) -> Answer {
        let answer = self.under_way().entry(name.to_owned()).or_insert_with(|| self.begin(name)).clone();
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        answer.unwrap_or_else(|_| Err(Unresolved(format!("no answer within {} s", DEADLINE.as_secs()))))
    }

    fn begin(&self, name: &str) -> Shared<BoxFuture<'static, Answer>> {
        let (names, name) = (self.clone(), name.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let found = (names.look_up)(&name);
            // Whoever asks from now on gets an answer of his own.
            names.under_way().remove(&name);
            found
        });
        let answer = async {
            match asked.await {
                Ok(Ok(found)) if found.is_empty() => Err(Unresolved("the name has no addresses".into())),
                Ok(Ok(found)) => Ok(found.into()),
                Ok(Err(error)) => Err(Unresolved(error.to_string())),
                Err(_) => Err(Unresolved("the look-up was cut short".into())),
            }
        };
        answer.boxed().shared()
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Shared<BoxFuture<'static, Answer>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_name_that_is_slow_to_find_is_looked_up_once_for_all_who_wait() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (release, held) = mpsc::channel::<()>();
        let (count, held) = (Arc::clone(&asked), Mutex::new(held));
        let names = Names::looked_up_by(move |name| {
            count.fetch_add(1, Ordering::SeqCst);
            if name == "slow.example" {
                held.lock().unwrap().recv().unwrap();
            }
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        });
        let mut waiting = std::pin::pin!(join_all((0..50).map(|_| names.resolve("slow.example"))));
        assert!(waiting.as_mut().now_or_never().is_none(), "all of them have asked");
        assert!(names.resolve("quick.example").await.is_ok(), "another name is not kept waiting");
        release.send(()).unwrap();
        assert!(waiting.await.iter().all(Result::is_ok));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        release.send(()).unwrap();
        assert!(names.resolve("slow.example").await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 3, "nothing is kept");
    }

    #[tokio::test]
    async fn a_name_without_addresses_or_answer_is_unresolved() {
        let names = Names::looked_up_by(|name| match name {
            "empty.example" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such host")),
        });
        for (name, why) in [("empty.example", "no addresses"), ("missing.example", "no such host")] {
            let error = names.resolve(name).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
