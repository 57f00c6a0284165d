//! HTTP/1.1 by hyper in the channel, as agent and client speak it.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::pair;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_streamed_answer_arrives_in_pieces() {
    let (client, server) = pair().await;
    let cadence = server.cadence();
    let service = service_fn(move |request: Request<Incoming>| {
        let hold = cadence.hold();
        async move {
            let question = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(question, "question");
            let pieces = futures_util::stream::unfold((0, hold), |(count, hold)| async move {
                sleep(Duration::from_millis(300)).await;
                let piece = Frame::data(Bytes::from(format!("piece {count};")));
                (count < 5).then_some((Ok::<_, Infallible>(piece), (count + 1, hold)))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(pieces)))
        }
    });
    let serving = tokio::spawn(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service),
    );
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client))
        .await
        .unwrap();
    let driving = tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::post("/").header("host", "x");
        let request = request.body(Full::new(Bytes::from("question"))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "piece 0;piece 1;piece 2;piece 3;piece 4;");
        sender.ready().await.unwrap();
    }
    drop(sender);
    driving.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
}
