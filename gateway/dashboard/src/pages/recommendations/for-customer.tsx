// Products for a customer.
import { Card } from "../../components/layout";
import { RECOMMENDATION_COLUMNS } from "../../components/recommendations";
import { Answer, Empty } from "../../components/states";
import { Table } from "../../components/table";
import { skipToken, useCall } from "../../data/api";
import { RecommendationService } from "../../gen/shopkeeper/recommendation/v1/recommendation_pb";
import { filter } from "../../url";

export function ForCustomer() {
  const customerId = filter("customer");
  const answer = useCall(
    RecommendationService.method.recommendProducts,
    customerId ? { customerId, limit: 30, newOnly: filter("new") === "1" } : skipToken,
  );
  return (
    <Card title={customerId ? `For customer ${customerId}` : "For a customer"}>
      {customerId ? (
        <Answer query={answer} isEmpty={(a) => a.recommendations.length === 0}>
          {(a) => (
            <Table
              label="Products for the customer"
              rows={a.recommendations}
              columns={RECOMMENDATION_COLUMNS}
              download={`recommendations-${customerId}`}
            />
          )}
        </Answer>
      ) : (
        <Empty>Type a customer id above.</Empty>
      )}
    </Card>
  );
}
