// What is added to Headlamp's own pages of Nodes, Pods and NetworkPolicies.
import { Box } from '@mui/material';
import { usePoliciesOf, usePolicy, useView } from './data';
import { ExplainLink } from './pages/explain';
import { RealizationOf, StatisticsOf } from './pages/policies';
import { TraceLink } from './pages/traces';
import { isKnown, Section } from './parts/layout';
import { PolicyTable } from './parts/policies';
import { agentFacts, Conditions, Facts, networkFacts } from './parts/tables';
import { AgentLink } from './parts/values';

/** The part of a Kubernetes object that is used. */
interface Resource {
  kind?: string;
  jsonData?: {
    metadata?: { name?: string; namespace?: string; uid?: string };
    spec?: { nodeName?: string; hostNetwork?: boolean };
  };
}

function OfNode({ name }: { name: string }) {
  const { data, problems, loading } = useView();
  const row = data.agents.find(agent => agent.name === name);
  return (
    <>
      <Section title="Antrea agent" problems={problems} loading={loading}>
        {row ? (
          <Facts
            facts={[
              ['Agent', <AgentLink key="" name={row.name} />],
              ...agentFacts(row),
              ...networkFacts(row),
            ]}
          />
        ) : (
          problems.length === 0 &&
          'There is no AntreaAgentInfo of this Node: no agent has run here yet.'
        )}
      </Section>
      {row && (
        <Section title="Antrea conditions">
          <Conditions conditions={row.conditions} verdict={row.health.verdict} />
        </Section>
      )}
    </>
  );
}

interface PodProps {
  namespace: string;
  name: string;
  node: string;
}

function OfPod({ namespace, name, node }: PodProps) {
  const { data, problems, loading } = usePoliciesOf({ namespace, name }, node);
  return (
    <Section title="Antrea policies" problems={problems} loading={loading}>
      {isKnown(problems, data) && (
        <PolicyTable
          rows={data}
          empty="No policy that the controller has computed applies to this Pod."
        />
      )}
      <Box sx={{ marginTop: 2 }}>
        <TraceLink from={{ namespace, name }}>Trace from this Pod</TraceLink>
        {' · '}
        <ExplainLink from={{ namespace, name }}>Explain what this Pod reaches</ExplainLink>
      </Box>
    </Section>
  );
}

function OfPolicy({ uid }: { uid: string }) {
  const { data, problems, loading } = usePolicy(uid);
  if (data) {
    return (
      <>
        <RealizationOf row={data} />
        <StatisticsOf row={data} />
      </>
    );
  }
  return (
    <Section title="Realization" problems={problems} loading={loading}>
      {problems.length === 0 && 'The Antrea controller has not computed this policy.'}
    </Section>
  );
}

function sectionOf(resource: Resource) {
  const { metadata = {}, spec = {} } = resource?.jsonData ?? {};
  const { name = '', namespace = '', uid = '' } = metadata;
  switch (resource?.kind) {
    case 'Node':
      return <OfNode name={name} />;
    case 'Pod':
      // Pods in the host's network are none of Antrea's.
      if (spec.hostNetwork) return null;
      return <OfPod namespace={namespace} name={name} node={spec.nodeName ?? ''} />;
    case 'NetworkPolicy':
      return uid ? <OfPolicy uid={uid} /> : null;
    default:
      return null;
  }
}

/** The section for an object, if there is one for its kind. */
export function DetailsSection({ resource }: { resource: Resource }) {
  const content = sectionOf(resource);
  if (!content) return null;
  return (
    <Box component="section" aria-label="Antrea">
      {content}
    </Box>
  );
}
