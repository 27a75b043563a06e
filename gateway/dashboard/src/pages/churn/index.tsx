// Customers at risk of churn, the value at risk, and the reasons.
import { CountryFilter } from "../../components/filters";
import { SelectFilter } from "../../components/inputs";
import { Card, Figure, Page } from "../../components/layout";
import { RISK_COLUMNS } from "../../components/risks";
import { Answer } from "../../components/states";
import { Table } from "../../components/table";
import { useRisks } from "../../data/queries";
import { count, day, enumLabel, money } from "../../format";
import { type ChurnRisk, RiskLevel } from "../../gen/shopkeeper/churn/v1/churn_pb";
import { filter } from "../../url";
import { Calibration } from "./calibration";
import { Distribution } from "./distribution";

const LEVELS = [RiskLevel.HIGH, RiskLevel.MEDIUM, RiskLevel.LOW];

export default function Churn() {
  const country = filter("country");
  const risks = useRisks(country);
  const minLevel = filter("risk", "MEDIUM");
  const reason = filter("reason");
  const all = risks.data?.items ?? [];
  const chosen = all.filter(
    (r) =>
      r.riskLevel >= (RiskLevel[minLevel as keyof typeof RiskLevel] ?? RiskLevel.MEDIUM) &&
      (!reason || strongestReason(r)?.feature === reason),
  );
  const reasons = [...new Set(all.flatMap((r) => strongestReason(r)?.feature ?? []))].toSorted();
  return (
    <Page
      title="Churn"
      lead="Customers that will probably not buy in the next 90 days, in descending order of the value that would be lost."
      filters={
        <>
          <CountryFilter />
          <SelectFilter
            name="risk"
            label="Risk at least"
            fallback="MEDIUM"
            options={LEVELS.map((l): [string, string] => [RiskLevel[l], enumLabel(RiskLevel[l])])}
          />
          <SelectFilter
            name="reason"
            label="Strongest reason"
            options={[
              ["", "Any"],
              ...reasons.map((r): [string, string] => [r, r.replaceAll("_", " ")]),
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Card
          title="Figures"
          note={
            risks.data &&
            `As of ${day(risks.data.first.asOf)}, by model ${risks.data.first.model?.version}`
          }
        >
          <Answer query={risks}>
            {({ total }) => (
              <dl class="figures">
                <Figure name="Customers" value={count(total)} note={country || "all countries"} />
                {LEVELS.map((level) => {
                  const customers = all.filter((r) => r.riskLevel === level);
                  return (
                    <Figure
                      key={level}
                      name={`${enumLabel(RiskLevel[level])} risk`}
                      value={count(customers.length)}
                      note={`${money(valueAtRisk(customers))} at risk`}
                    />
                  );
                })}
                <Figure
                  name="Value at risk"
                  value={money(valueAtRisk(all))}
                  note="chance × last year's spend"
                />
              </dl>
            )}
          </Answer>
        </Card>
        <Distribution risks={risks} />
        <Calibration />
        <Card
          title="Customers at risk"
          note={
            risks.data && risks.data.total > all.length
              ? `Among the ${count(all.length)} of ${count(risks.data.total)} customers with most value at risk`
              : "In descending order of value at risk"
          }
        >
          <Answer query={risks} isEmpty={() => chosen.length === 0}>
            {() => (
              <Table
                label="Customers at risk"
                rows={chosen}
                columns={RISK_COLUMNS}
                download="at-risk"
              />
            )}
          </Answer>
        </Card>
      </div>
    </Page>
  );
}

const valueAtRisk = (risks: ChurnRisk[]) => risks.reduce((all, r) => all + (r.valueAtRisk ?? 0), 0);

/** The strongest reason that raises a risk. */
const strongestReason = (risk: ChurnRisk) => risk.reasons.find((r) => r.contribution > 0);
