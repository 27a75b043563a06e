//! RecommendationService over the recommendation model.

use proto::recommendation::v1::{
    AssociationRule, ListBoughtTogetherRequest, ListBoughtTogetherResponse,
    ListSimilarProductsRequest, ListSimilarProductsResponse, ReasonKind, RecommendProductsRequest,
    RecommendProductsResponse, Recommendation, SimilarProduct,
    recommendation_service_server::{RecommendationService, RecommendationServiceServer},
};
use runtime::{Refusal, non_negative, required, within};
use scoring::recommendation::{Query, Reason, RecommendationModel};
use serving::{Live, Loaded};
use tonic::{Request, Response, Status};

/// Products of an answer: when the caller does not say, and at most.
const LIMIT: (usize, usize) = (10, 100);
const MOST_BASKET: usize = 100;
const MOST_EXCLUDED: usize = 1000;

/// The service over a model.
pub fn service(live: Live<RecommendationModel>) -> runtime::Service {
    serving::service(
        &live,
        serving::limited!(RecommendationServiceServer::new(Api(live.clone()))),
    )
}

struct Api(Live<RecommendationModel>);

#[tonic::async_trait]
impl RecommendationService for Api {
    async fn recommend_products(
        &self,
        request: Request<RecommendProductsRequest>,
    ) -> Result<Response<RecommendProductsResponse>, Status> {
        self.0.answer(request, recommend)
    }

    async fn list_similar_products(
        &self,
        request: Request<ListSimilarProductsRequest>,
    ) -> Result<Response<ListSimilarProductsResponse>, Status> {
        self.0.answer(request, similar)
    }

    async fn list_bought_together(
        &self,
        request: Request<ListBoughtTogetherRequest>,
    ) -> Result<Response<ListBoughtTogetherResponse>, Status> {
        self.0.answer(request, together)
    }
}

fn at_most<'a>(field: &str, list: &'a [String], most: usize) -> Result<&'a [String], Refusal> {
    match list.len() {
        n if n > most => Err(Refusal::field(
            field,
            format!("has {n} items; {most} is the most"),
        )),
        _ => Ok(list),
    }
}

fn bought_before(times: u64) -> String {
    match times {
        1 => "bought in 1 order before".to_owned(),
        times => format!("bought in {times} orders before"),
    }
}

/// Refuses a highest price below the least one.
fn in_order(min_price: Option<f64>, max_price: Option<f64>) -> Result<(), Refusal> {
    match min_price.zip(max_price) {
        Some((min, max)) if max < min => Err(Refusal::field(
            "max_price",
            format!("is {max}, below min_price {min}"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// A number from 0 to 1.
fn share(field: &str, number: f64) -> Result<f64, Refusal> {
    match non_negative(field, number)? {
        number if number > 1.0 => Err(Refusal::field(field, format!("is {number}; 1 is the most"))),
        number => Ok(number),
    }
}

/// A request as the model accepts it, and the stock codes of the basket that it does not know.
fn query(
    model: &RecommendationModel,
    request: &RecommendProductsRequest,
) -> Result<(Query, Vec<String>), Refusal> {
    let id = scoring::CustomerId::canonical(&request.customer_id);
    let basket = at_most("basket", &request.basket, MOST_BASKET)?;
    if id.is_empty() && basket.is_empty() {
        return Err(Refusal::field(
            "customer_id",
            "and basket are empty; one of them is needed",
        ));
    }
    let price =
        |field: &str, price: Option<f64>| price.map(|price| non_negative(field, price)).transpose();
    let min_price = price("min_price", request.min_price)?;
    let max_price = price("max_price", request.max_price)?;
    in_order(min_price, max_price)?;
    let limit = within("limit", request.limit, LIMIT.0, LIMIT.1)?;
    let exclude = at_most("exclude", &request.exclude, MOST_EXCLUDED)?;
    let customer = match id {
        "" => None,
        id => match model.customer(id) {
            None if basket.is_empty() => return Err(Refusal::not_found("customer", id)),
            // An unknown customer with a basket gets what goes with the basket.
            found => found,
        },
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for code in basket {
        match model.product(code) {
            Some(row) if !known.contains(&row) => known.push(row),
            Some(_) => {}
            None => unknown.push(code.clone()),
        }
    }
    let exclude = exclude.iter().filter_map(|code| model.product(code));
    let query = Query {
        customer,
        basket: known,
        limit,
        new_only: request.new_only,
        exclude: exclude.collect(),
        min_price,
        max_price,
    };
    Ok((query, unknown))
}

fn message(
    model: &RecommendationModel,
    rank: i32,
    found: &scoring::recommendation::Recommendation,
) -> Recommendation {
    let product = &model.products()[found.product];
    let (reason, reason_text) = match found.reason {
        Reason::BoughtBefore(times) => (ReasonKind::BoughtBefore, bought_before(times)),
        Reason::Taste => (
            ReasonKind::Taste,
            "customers with a like taste buy it".to_owned(),
        ),
        Reason::Basket(with) => (
            ReasonKind::Basket,
            format!("goes with {}", model.products()[with].description),
        ),
        Reason::Popular => (ReasonKind::Popular, "sells well at the moment".to_owned()),
    };
    Recommendation {
        rank,
        stock_code: product.stock_code.to_string(),
        description: product.description.to_string(),
        score: found.score,
        reason: reason.into(),
        reason_text,
    }
}

fn recommend(
    loaded: &Loaded<RecommendationModel>,
    request: &RecommendProductsRequest,
) -> Result<RecommendProductsResponse, Refusal> {
    let model = &loaded.model;
    let (query, unknown_basket) = query(model, request)?;
    let found = model.recommend(&query);
    let recommendations = (1..)
        .zip(&found)
        .map(|(rank, found)| message(model, rank, found));
    Ok(RecommendProductsResponse {
        recommendations: recommendations.collect(),
        unknown_basket,
        model: Some(loaded.info.clone()),
    })
}

fn product(model: &RecommendationModel, code: &str) -> Result<usize, Refusal> {
    let code = required("stock_code", code)?.trim();
    model
        .product(code)
        .ok_or_else(|| Refusal::not_found("product", code))
}

fn similar(
    loaded: &Loaded<RecommendationModel>,
    request: &ListSimilarProductsRequest,
) -> Result<ListSimilarProductsResponse, Refusal> {
    let limit = within("limit", request.limit, LIMIT.0, LIMIT.1)?;
    let of = product(&loaded.model, &request.stock_code)?;
    let products = loaded
        .model
        .similar(of, limit)
        .into_iter()
        .map(|(row, similarity)| {
            let product = &loaded.model.products()[row];
            let (stock_code, description) = (
                product.stock_code.to_string(),
                product.description.to_string(),
            );
            SimilarProduct {
                stock_code,
                description,
                similarity,
            }
        });
    Ok(ListSimilarProductsResponse {
        products: products.collect(),
        model: Some(loaded.info.clone()),
    })
}

fn together(
    loaded: &Loaded<RecommendationModel>,
    request: &ListBoughtTogetherRequest,
) -> Result<ListBoughtTogetherResponse, Refusal> {
    let limit = within("limit", request.limit, LIMIT.0, LIMIT.1)?;
    let min_confidence = share("min_confidence", request.min_confidence)?;
    let min_lift = non_negative("min_lift", request.min_lift)?;
    let of = product(&loaded.model, &request.stock_code)?;
    let strong = loaded
        .model
        .rules(of)
        .iter()
        .filter(|r| r.confidence >= min_confidence && r.lift >= min_lift);
    let rules = strong.take(limit).map(|rule| {
        let product = &loaded.model.products()[rule.other];
        AssociationRule {
            stock_code: product.stock_code.to_string(),
            description: product.description.to_string(),
            support: rule.support,
            confidence: rule.confidence,
            lift: rule.lift,
            orders: rule.orders,
        }
    });
    Ok(ListBoughtTogetherResponse {
        rules: rules.collect(),
        model: Some(loaded.info.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_is_one() {
        assert_eq!(
            [1, 6].map(bought_before),
            ["bought in 1 order before", "bought in 6 orders before"]
        );
    }

    #[test]
    fn what_nothing_could_match_is_refused_by_field() {
        let problem = |checked: Result<f64, Refusal>| checked.unwrap_err().to_string();
        assert_eq!(
            problem(share("min_confidence", 2.0)),
            "min_confidence is 2; 1 is the most"
        );
        assert_eq!(
            (share("min_confidence", 0.0), share("min_confidence", 1.0)),
            (Ok(0.0), Ok(1.0))
        );
        let crossed = in_order(Some(5.0), Some(4.0)).unwrap_err();
        assert_eq!(crossed.to_string(), "max_price is 4, below min_price 5");
        for prices in [
            (Some(4.0), Some(4.0)),
            (Some(5.0), None),
            (None, Some(0.0)),
            (None, None),
        ] {
            assert_eq!(in_order(prices.0, prices.1), Ok(()));
        }
    }
}
