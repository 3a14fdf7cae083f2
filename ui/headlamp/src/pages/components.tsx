// The controller, the agents and one agent.
import { useParams } from 'react-router-dom';
import { useView } from '../data';
import { isKnown, Page, Section } from '../parts/layout';
import {
  agentFacts,
  AgentTable,
  Conditions,
  controllerFacts,
  Facts,
  FlowTables,
  networkFacts,
  policyFacts,
  useFilter,
} from '../parts/tables';
import { VerdictLabel } from '../parts/values';

export function Controller() {
  const { data, problems, loading } = useView();
  const row = data.controller;
  const aside = row && <VerdictLabel verdict={row.health.verdict} />;
  return (
    <Page title="Antrea controller" aside={aside} problems={problems} loading={loading}>
      {row ? (
        <>
          <Section title="State">
            <Facts facts={controllerFacts(row)} />
          </Section>
          <Section title="Conditions">
            <Conditions conditions={row.conditions} verdict={row.health.verdict} />
          </Section>
          <Section title="Computed policy">
            <Facts facts={policyFacts(row.policies)} />
          </Section>
        </>
      ) : problems.length > 0 ? null : (
        <Section title="State">
          There is no AntreaControllerInfo: no controller has run here yet.
        </Section>
      )}
    </Page>
  );
}

export function Agents() {
  const { data, problems, loading } = useView();
  const [field, rows] = useFilter('Filter by name, verdict or reason', data.agents, row => [
    row.name,
    row.health.verdict,
    row.health.reason,
  ]);
  return (
    <Page title="Antrea agents" problems={problems} loading={loading}>
      {isKnown(problems, data.agents) && (
        <Section>
          {field}
          <AgentTable rows={rows} />
        </Section>
      )}
    </Page>
  );
}

export function Agent() {
  const { name } = useParams<{ name: string }>();
  const { data, problems, loading } = useView();
  const row = data.agents.find(agent => agent.name === name);
  const aside = row && <VerdictLabel verdict={row.health.verdict} />;
  return (
    <Page title={`Antrea agent on ${name}`} aside={aside} problems={problems} loading={loading}>
      {row ? (
        <>
          <Section title="State">
            <Facts facts={agentFacts(row)} />
          </Section>
          <Section title="Conditions">
            <Conditions conditions={row.conditions} verdict={row.health.verdict} />
          </Section>
          <Section title="Network">
            <Facts facts={networkFacts(row)} />
          </Section>
          <Section title={`Flow tables: ${row.flows} flows`}>
            <FlowTables row={row} />
          </Section>
        </>
      ) : problems.length > 0 ? null : (
        <Section title="State">There is no AntreaAgentInfo of this name.</Section>
      )}
    </Page>
  );
}
