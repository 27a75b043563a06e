// Key figures of the filtered lines, compared with the period before.
import { Card, Figure } from "../../components/layout";
import { Answer } from "../../components/states";
import { skipToken, useCall } from "../../data/api";
import { previousRange, useRange } from "../../data/queries";
import { percentChange, count, day, money, percent } from "../../format";
import { InsightsService } from "../../gen/shopkeeper/insights/v1/insights_pb";

export function Summary() {
  const range = useRange();
  const now = useCall(InsightsService.method.getSummary, range);
  const compared =
    range.startTime && range.endTime
      ? { countries: range.countries, ...previousRange(range.startTime, range.endTime) }
      : skipToken;
  const before = useCall(InsightsService.method.getSummary, compared).data?.sales;
  const comparison = (value: number, previous: number | undefined) => {
    if (compared === skipToken || !previous) return {};
    const change = value / previous - 1;
    return {
      note: `${percentChange(change)} on the period before`,
      tone: change < 0 ? ("bad" as const) : ("good" as const),
    };
  };
  return (
    <Card
      title="Figures"
      note={now.data && `Data from ${day(now.data.firstTime)} to ${day(now.data.lastTime)}`}
    >
      <Answer query={now}>
        {({ sales }) =>
          sales && (
            <dl class="figures">
              <Figure
                name="Revenue"
                value={money(sales.revenue)}
                {...comparison(sales.revenue, before?.revenue)}
              />
              <Figure
                name="Orders"
                value={count(sales.orders)}
                {...comparison(Number(sales.orders), Number(before?.orders))}
              />
              <Figure
                name="Known customers"
                value={count(sales.customers)}
                {...comparison(Number(sales.customers), Number(before?.customers))}
              />
              <Figure
                name="Units sold"
                value={count(sales.items)}
                {...comparison(Number(sales.items), Number(before?.items))}
              />
              <Figure
                name="Average order"
                value={money(sales.averageOrderValue)}
                {...comparison(sales.averageOrderValue, before?.averageOrderValue)}
              />
              <Figure
                name="Returned"
                value={percent(sales.returnsRate)}
                note={`${money(sales.returns)} returned`}
              />
            </dl>
          )
        }
      </Answer>
    </Card>
  );
}
