//! `echo ADDR SERVICE CUSTOMER`: a bare tonic server, against which ours are measured. It asks a
//! churn service for a customer's risk once, and from then on answers GetChurnRisk with it: the
//! same messages over the same transport, with nothing of ours around and no model behind.

use std::net::SocketAddr;

use anyhow::Context;
use proto::churn::v1::{
    BatchGetChurnRisksRequest, BatchGetChurnRisksResponse, GetChurnCalibrationRequest,
    GetChurnCalibrationResponse, GetChurnRiskRequest, GetChurnRiskResponse,
    ListAtRiskCustomersRequest, ListAtRiskCustomersResponse, ScoreChurnRequest, ScoreChurnResponse,
    churn_service_client::ChurnServiceClient,
    churn_service_server::{ChurnService, ChurnServiceServer},
};
use tonic::{Request, Response, Status, transport::Server};

struct Echo(GetChurnRiskResponse);

#[tonic::async_trait]
impl ChurnService for Echo {
    async fn get_churn_risk(
        &self,
        request: Request<GetChurnRiskRequest>,
    ) -> Result<Response<GetChurnRiskResponse>, Status> {
        let mut answer = self.0.clone();
        if let Some(risk) = &mut answer.churn_risk {
            risk.customer_id = request.into_inner().customer_id;
        }
        Ok(Response::new(answer))
    }

    async fn batch_get_churn_risks(
        &self,
        _: Request<BatchGetChurnRisksRequest>,
    ) -> Result<Response<BatchGetChurnRisksResponse>, Status> {
        Err(not_here())
    }

    async fn score_churn(
        &self,
        _: Request<ScoreChurnRequest>,
    ) -> Result<Response<ScoreChurnResponse>, Status> {
        Err(not_here())
    }

    async fn list_at_risk_customers(
        &self,
        _: Request<ListAtRiskCustomersRequest>,
    ) -> Result<Response<ListAtRiskCustomersResponse>, Status> {
        Err(not_here())
    }

    async fn get_churn_calibration(
        &self,
        _: Request<GetChurnCalibrationRequest>,
    ) -> Result<Response<GetChurnCalibrationResponse>, Status> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("echo answers GetChurnRisk alone")
}

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
    let address: SocketAddr = address.parse().context("the address is none")?;
    Server::builder()
        .add_service(ChurnServiceServer::new(Echo(answer)))
        .serve(address)
        .await?;
    Ok(())
}
