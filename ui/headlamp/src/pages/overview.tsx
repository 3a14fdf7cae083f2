import { Box, Paper, Stack, Typography } from '@mui/material';
import { useView } from '../data';
import { Counts } from '../model';
import { Verdict } from '../model/health';
import { isKnown, Page, Section } from '../parts/layout';
import { NetworkDrawing } from '../parts/network';
import { AgentTable, controllerFacts, Facts } from '../parts/tables';
import { HealthValue, VerdictLabel } from '../parts/values';
import { RolloutBars, versionText } from './installation';

function CountTiles({ counts }: { counts: Counts }) {
  const order: Verdict[] = ['Healthy', 'Degraded', 'Unknown', 'Stale', 'Unhealthy'];
  return (
    <Stack
      direction="row"
      spacing={2}
      useFlexGap
      flexWrap="wrap"
      component="ul"
      sx={{ padding: 0, margin: 0 }}
    >
      {order.map(verdict => (
        <Paper
          key={verdict}
          variant="outlined"
          component="li"
          sx={{ listStyle: 'none', padding: 2, minWidth: 120, textAlign: 'center' }}
        >
          <Typography variant="h4" component="p" sx={{ marginBottom: 1 }}>
            {counts[verdict.toLowerCase() as keyof Counts]}
          </Typography>
          <VerdictLabel verdict={verdict} />
        </Paper>
      ))}
    </Stack>
  );
}

/** All at one glance. */
export function Overview() {
  const { data, problems, loading } = useView();
  const { controller, installation } = data;
  const agentsKnown = isKnown(problems, data.agents);
  return (
    <Page title="Antrea" problems={problems} loading={loading}>
      <Section title="Health">
        <Box sx={{ marginBottom: 2 }}>
          <HealthValue health={data.health} />
        </Box>
        {agentsKnown && <CountTiles counts={data.counts} />}
      </Section>
      {installation && (
        <Section title="Installation">
          <Facts
            facts={[
              ['Health', <HealthValue key="" health={installation.health} />],
              ['Version', versionText(installation)],
              ['Message', installation.message],
            ]}
          />
          <RolloutBars rollout={installation.rollout} />
        </Section>
      )}
      {controller && (
        <Section title="Controller">
          <Facts facts={controllerFacts(controller)} />
        </Section>
      )}
      {agentsKnown && (
        <Section title="Agents">
          <AgentTable rows={data.agents} />
        </Section>
      )}
      {data.graph.vertices.length > 0 && (
        <Section title="Network">
          <NetworkDrawing graph={data.graph} />
        </Section>
      )}
    </Page>
  );
}
