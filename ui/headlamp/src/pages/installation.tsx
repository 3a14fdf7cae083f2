import { SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Alert, Box, Typography } from '@mui/material';
import { AntreaInstallation } from '../crds';
import { useInstallation, useRollout, useView } from '../data';
import { fieldsOf } from '../model/fields';
import { InstallationView, Rollout } from '../model/installation';
import { Page, Section } from '../parts/layout';
import { NodeProgressTable, Plan, RolloutNotes, WaveTable } from '../parts/rollout';
import { Bar, Conditions, Facts } from '../parts/tables';
import { HealthValue, VerdictLabel } from '../parts/values';

/** Fields of the status that have a place of their own on the page. */
const SHOWN = [
  'computed',
  'conditions',
  'message',
  'nodes',
  'observedGeneration',
  'operatorVersion',
  'pendingChanges',
  'plannedWaves',
  'rollout',
  'targetVersion',
  'version',
];

/** Fields of `status.nodes` that do. */
const SHOWN_OF_NODES = ['desired', 'failing', 'ready', 'replacing', 'summary', 'updated'];

/** Fields of `status.rollout` that do, or tell people nothing. */
const SHOWN_OF_ROLLOUT = [
  'done',
  'failed',
  'held',
  'newestVersion',
  'stable',
  'target',
  'turns',
  'wave',
  'waveEnded',
];

export function versionText({ version, targetVersion }: InstallationView): string {
  return targetVersion ? `${version || 'none'} → ${targetVersion}` : version;
}

export function RolloutBars({ rollout }: { rollout: Rollout }) {
  const { desired, updated, ready } = rollout;
  const bar = (label: string, count: number) => (
    <Box sx={{ flex: '1 1 240px' }} key={label}>
      <Typography variant="body2" sx={{ marginBottom: 0.5 }}>
        {label}: {count} of {desired} nodes
      </Typography>
      <Bar
        label={label}
        value={count}
        of={desired}
        color={count < desired ? 'warning' : 'success'}
      />
    </Box>
  );
  return (
    <Box sx={{ display: 'flex', flexWrap: 'wrap', gap: 3, marginY: 2 }}>
      {bar('Updated', updated)}
      {bar('Ready', ready)}
    </Box>
  );
}

/** How far the last change is, and what is planned. */
function Change({ installation, rollout }: { installation: AntreaInstallation; rollout: Rollout }) {
  const { data, problems, loading } = useRollout(installation);
  return (
    <>
      <Section title="Rollout" problems={problems} loading={loading}>
        <RolloutNotes view={data} />
        <Typography>{data.summary}</Typography>
        <RolloutBars rollout={rollout} />
        <WaveTable waves={data.waves} />
      </Section>
      <Section title="Nodes" loading={loading}>
        <NodeProgressTable nodes={data.nodes} />
      </Section>
      <Section title="Changes that are not applied">
        <Plan view={data} />
      </Section>
    </>
  );
}

/** Fields by their paths, as they are. */
function Fields({
  title,
  value,
  known,
}: {
  title: string;
  value: unknown;
  known?: readonly string[];
}) {
  const fields = fieldsOf(value, known);
  if (fields.length === 0) return null;
  return (
    <Section title={title}>
      <SimpleTable
        data={fields}
        columns={[
          { label: 'Field', datum: 'name', gridTemplate: 'auto' },
          { label: 'Value', datum: 'value', gridTemplate: '2fr' },
        ]}
      />
    </Section>
  );
}

export function Installation() {
  const { data, problems, loading } = useView();
  const object = useInstallation();
  const view = data.installation;
  const status = object?.status;
  const more = { ...status, nodes: undefined };
  const aside = view && <VerdictLabel verdict={view.health.verdict} />;
  return (
    <Page title="Antrea installation" aside={aside} problems={problems} loading={loading}>
      {view ? (
        <>
          <Section title="State">
            {view.specPending && (
              <Alert severity="warning" variant="outlined" sx={{ marginBottom: 2 }}>
                The present specification is not applied: the operator has not seen it yet, or
                refuses it.
              </Alert>
            )}
            <Facts
              facts={[
                ['Name', view.name],
                ['Health', <HealthValue key="" health={view.health} />],
                ['Version', versionText(view)],
                ['Operator', status?.operatorVersion ?? ''],
                ['Message', view.message],
              ]}
            />
          </Section>
          <Section title="Conditions">
            <Conditions conditions={view.conditions} verdict={view.health.verdict} />
          </Section>
          {object && <Change installation={object} rollout={view.rollout} />}
          <Fields title="More of the nodes" value={status?.nodes} known={SHOWN_OF_NODES} />
          <Fields title="More of the rollout" value={status?.rollout} known={SHOWN_OF_ROLLOUT} />
          {!status?.rollout?.done && (
            <Fields title="What ran before" value={status?.rollout?.stable} />
          )}
          <Fields title="More of the status" value={more} known={SHOWN} />
          <Fields title="Asked for" value={object?.spec} />
          <Fields title="In effect" value={status?.computed} />
        </>
      ) : (
        <Section title="State">
          There is no AntreaInstallation: Antrea is not installed here, or was installed without its
          operator.
        </Section>
      )}
    </Page>
  );
}
