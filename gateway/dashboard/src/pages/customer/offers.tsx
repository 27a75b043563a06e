// Products recommended to a customer.
import { Card } from "../../components/layout";
import { RECOMMENDATION_COLUMNS } from "../../components/recommendations";
import { Answer } from "../../components/states";
import { Table } from "../../components/table";
import { useCall } from "../../data/api";
import { RecommendationService } from "../../gen/shopkeeper/recommendation/v1/recommendation_pb";
import { filter, setFilters } from "../../url";

export function Offers({ id }: { id: string }) {
  const answer = useCall(RecommendationService.method.recommendProducts, {
    customerId: id,
    limit: 20,
    newOnly: filter("new") === "1",
  });
  return (
    <Card
      title="Recommended products"
      actions={
        <button
          type="button"
          aria-pressed={filter("new") === "1"}
          onClick={() => setFilters({ new: filter("new") === "1" ? undefined : "1" })}
        >
          New products only
        </button>
      }
    >
      <Answer query={answer} isEmpty={(a) => a.recommendations.length === 0}>
        {(a) => (
          <Table
            label="Products for the customer"
            rows={a.recommendations}
            columns={RECOMMENDATION_COLUMNS}
            pageSize={6}
            download={`recommendations-${id}`}
          />
        )}
      </Answer>
    </Card>
  );
}
