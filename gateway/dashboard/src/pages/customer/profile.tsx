// A customer's sales.
import { Card, Figure } from "../../components/layout";
import { Answer } from "../../components/states";
import { useCall } from "../../data/api";
import { count, day, days, money } from "../../format";
import { InsightsService } from "../../gen/shopkeeper/insights/v1/insights_pb";

export function Profile({ id }: { id: string }) {
  const answer = useCall(InsightsService.method.getCustomerProfile, { customerId: id });
  return (
    <Card title="Profile">
      <Answer query={answer}>
        {({ profile: p }) =>
          p && (
            <dl class="figures">
              <Figure
                name="Revenue"
                value={money(p.sales?.revenue ?? 0)}
                note={`${money(p.sales?.returns ?? 0)} returned`}
              />
              <Figure
                name="Orders"
                value={count(p.sales?.orders ?? 0)}
                note={`${money(p.sales?.averageOrderValue ?? 0)} on average`}
              />
              <Figure
                name="Units"
                value={count(p.sales?.items ?? 0)}
                note={`of ${count(p.products)} products`}
              />
              <Figure name="First order" value={day(p.firstOrderTime)} note={p.country} />
              <Figure name="Last order" value={day(p.lastOrderTime)} />
              <Figure
                name="Between orders"
                value={p.averageGapDays === undefined ? "–" : days(p.averageGapDays)}
                note="on average"
              />
            </dl>
          )
        }
      </Answer>
    </Card>
  );
}
