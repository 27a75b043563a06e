//! `echo ADDR SERVICE CUSTOMER`: a bare tonic server, against which ours are measured. It asks a
//! churn service for a customer's risk once, and from then on answers GetChurnRisk with it: the
//! same messages over the same transport, with nothing of ours around and no model behind.

use std::net::SocketAddr;

use anyhow::Context;
use fake_shop::risk_only;
use proto::churn::v1::{GetChurnRiskRequest, churn_service_client::ChurnServiceClient};
use tonic::{Response, transport::Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, service, customer_id] = &*arguments else {
        anyhow::bail!("echo ADDR SERVICE CUSTOMER")
    };
    let mut client = ChurnServiceClient::connect(format!("http://{service}")).await?;
    let answer = client
        .get_churn_risk(GetChurnRiskRequest {
            customer_id: customer_id.clone(),
        })
        .await?
        .into_inner();
    let address: SocketAddr = address.parse().context("ADDR is not a socket address")?;
    let echo = risk_only(move |request| {
        let mut answer = answer.clone();
        if let Some(risk) = &mut answer.churn_risk {
            risk.customer_id = request.into_inner().customer_id;
        }
        Ok(Response::new(answer))
    });
    Server::builder().add_service(echo).serve(address).await?;
    Ok(())
}
