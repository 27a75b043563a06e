// A card for each segment, with its size and strategy.
import { Figure } from "../../components/layout";
import { count, days, decimal, money, percent } from "../../format";
import type { Segment } from "../../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { filter } from "../../url";

export function Profiles({ segments }: { segments: Segment[] }) {
  const chosen = filter("segment");
  return (
    <div class="profiles">
      {segments
        .filter((s) => !chosen || String(s.segmentId) === chosen)
        .map((s) => (
          <section class="card" key={s.segmentId}>
            <h2>{s.name}</h2>
            <dl class="figures">
              <Figure
                name="Customers"
                value={count(s.customers)}
                note={`${percent(s.customerShare)} of all`}
              />
              <Figure
                name="Of spend"
                value={percent(s.monetaryShare)}
                note={`${money(s.average?.monetary ?? 0)} each`}
              />
              <Figure
                name="Orders"
                value={decimal(s.average?.frequency ?? 0, 1)}
                note={`last ${days(s.average?.recencyDays ?? 0)} ago`}
              />
            </dl>
            <p class="strategy">{s.strategy}</p>
          </section>
        ))}
    </div>
  );
}
