//! A churn service that answers GetChurnRisk alone.

use proto::churn::v1::{
    BatchGetChurnRisksRequest, BatchGetChurnRisksResponse, GetChurnCalibrationRequest,
    GetChurnCalibrationResponse, GetChurnRiskRequest, GetChurnRiskResponse,
    ListAtRiskCustomersRequest, ListAtRiskCustomersResponse, ScoreChurnRequest, ScoreChurnResponse,
    churn_service_server::{ChurnService, ChurnServiceServer},
};
use tonic::{Request, Response, Status};

/// A churn service whose GetChurnRisk is this function, and whose other methods are UNIMPLEMENTED.
pub fn risk_only<F>(answer: F) -> ChurnServiceServer<RiskOnly<F>>
where
    RiskOnly<F>: ChurnService,
{
    ChurnServiceServer::new(RiskOnly(answer))
}

/// See [`risk_only`].
#[derive(Debug)]
pub struct RiskOnly<F>(F);

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "this service answers GetChurnRisk alone",
    ))
}

#[tonic::async_trait]
impl<F> ChurnService for RiskOnly<F>
where
    F: Fn(Request<GetChurnRiskRequest>) -> Result<Response<GetChurnRiskResponse>, Status>
        + Send
        + Sync
        + 'static,
{
    async fn get_churn_risk(
        &self,
        request: Request<GetChurnRiskRequest>,
    ) -> Result<Response<GetChurnRiskResponse>, Status> {
        (self.0)(request)
    }

    async fn batch_get_churn_risks(
        &self,
        _: Request<BatchGetChurnRisksRequest>,
    ) -> Result<Response<BatchGetChurnRisksResponse>, Status> {
        unimplemented()
    }

    async fn score_churn(
        &self,
        _: Request<ScoreChurnRequest>,
    ) -> Result<Response<ScoreChurnResponse>, Status> {
        unimplemented()
    }

    async fn list_at_risk_customers(
        &self,
        _: Request<ListAtRiskCustomersRequest>,
    ) -> Result<Response<ListAtRiskCustomersResponse>, Status> {
        unimplemented()
    }

    async fn get_churn_calibration(
        &self,
        _: Request<GetChurnCalibrationRequest>,
    ) -> Result<Response<GetChurnCalibrationResponse>, Status> {
        unimplemented()
    }
}
