// Policies and their realization.
import { Link } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Typography } from '@mui/material';
import { useMemo } from 'react';
import { useParams } from 'react-router-dom';
import { usePolicies, usePolicy, useRealization, useStatistics } from '../data';
import { PolicyRow } from '../model/realization';
import { countersOf, Kind, KINDS } from '../model/statistics';
import { isKnown, Page, Section } from '../parts/layout';
import { PolicyTable, RealizationTable, RuleTable } from '../parts/policies';
import { Fact, Facts, useFilter } from '../parts/tables';
import { HealthValue } from '../parts/values';

/** Every kind; the same array each time. */
const ALL = Object.keys(KINDS) as Kind[];

/** That nobody counts, where that is known. */
const NOT_COUNTED =
  'Traffic of policies is not counted: the feature gate NetworkPolicyStats is off, or this version does not have it.';

export function Policies() {
  const { data, problems, loading } = usePolicies();
  const counted = useStatistics(ALL);
  const [field, rows] = useFilter('Filter by name, namespace or kind', data, row => [
    row.source.name,
    row.source.namespace,
    row.kind,
  ]);
  return (
    <Page title="NetworkPolicies" problems={[...problems, ...counted.problems]} loading={loading}>
      <Section>
        <Typography sx={{ marginBottom: 2 }}>
          What the controller has computed. A node reports a policy once its rules are in Open
          vSwitch. {counted.served === false && NOT_COUNTED}
        </Typography>
        {field}
        {isKnown(problems, data) && (
          <PolicyTable
            rows={rows}
            statistics={counted.data}
            empty="The controller has computed no policy."
          />
        )}
      </Section>
    </Page>
  );
}

function policyFacts(row: PolicyRow): Fact[] {
  const { kind, source } = row;
  // Of other kinds Headlamp has no page.
  const name =
    kind === 'NetworkPolicy' ? (
      <Link key="" routeName="networkPolicy" params={{ ...source }}>
        {source.name}
      </Link>
    ) : (
      source.name
    );
  return [
    ['Policy', name],
    ['Namespace', source.namespace],
    ['Kind', kind],
    ['Ingress rules', row.ingress],
    ['Egress rules', row.egress],
    ['Generation', row.generation],
  ];
}

/** What nodes made of a policy that the controller has computed. */
export function RealizationOf({ row }: { row: PolicyRow }) {
  const { data, problems, loading } = useRealization(row.uid, row.generation);
  return (
    <Section title="Realization" problems={problems} loading={loading}>
      {data && (
        <>
          <Facts facts={[['On the nodes', <HealthValue key="" health={data.health} />]]} />
          <RealizationTable nodes={data.nodes} />
        </>
      )}
    </Section>
  );
}

/** What was counted for a policy, and for each of its rules where they are counted. */
export function StatisticsOf({ row }: { row: PolicyRow }) {
  const kinds = useMemo(() => ALL.filter(kind => kind === row.kind), [row.kind]);
  const { data, problems, loading, served } = useStatistics(kinds);
  const counted = countersOf(data, row);
  return (
    <Section title="Statistics" problems={problems} loading={loading}>
      {served === false ? (
        NOT_COUNTED
      ) : counted ? (
        <>
          <Facts
            facts={[
              ['Sessions', counted.sessions],
              ['Packets', counted.packets],
              ['Bytes', counted.bytes],
            ]}
          />
          {counted.rules.length > 0 && <RuleTable rules={counted.rules} />}
        </>
      ) : (
        problems.length === 0 &&
        'Nothing was counted for this policy yet; agents tell once a minute.'
      )}
    </Section>
  );
}

export function Policy() {
  const { uid } = useParams<{ uid: string }>();
  const { data, problems, loading } = usePolicy(uid);
  const title = data ? `NetworkPolicy ${data.source.name}` : 'NetworkPolicy';
  return (
    <Page title={title} problems={problems} loading={loading}>
      {data ? (
        <>
          <Section title="Policy">
            <Facts facts={policyFacts(data)} />
          </Section>
          <RealizationOf row={data} />
          <StatisticsOf row={data} />
        </>
      ) : problems.length > 0 ? null : (
        <Section title="Policy">The controller has computed no policy with the UID {uid}.</Section>
      )}
    </Page>
  );
}
