// The path of a trace: text in boxes, which a screen reader reads as nested lists in the order of the packet's way.
import { Box, Typography } from '@mui/material';
import { Hop, Outcome, Step } from '../model/trace';
import { Label, NodeLink, useShade } from './values';

export function OutcomeLabel({ outcome }: { outcome: Outcome }) {
  return <Label status={outcome.status}>{outcome.word}</Label>;
}

/** Drawn between boxes; the order of the lists says the same. */
function Arrow({ down, text = '' }: { down?: boolean; text?: string }) {
  return (
    <Box
      aria-hidden
      sx={{ alignSelf: 'center', textAlign: 'center', fontSize: down ? 14 : 24, lineHeight: 1.2 }}
    >
      {down ? '↓' : '→'}
      {text && <Typography variant="body2">{text}</Typography>}
    </Box>
  );
}

function StepBox({ step, first }: { step: Step; first: boolean }) {
  const shade = useShade();
  const { title, action, dropped, lines } = step;
  return (
    <Box component="li" sx={{ listStyle: 'none' }}>
      {!first && <Arrow down />}
      <Box
        sx={{
          border: dropped ? 3 : 1,
          borderColor: dropped ? shade('error') : 'text.secondary',
          borderRadius: 1,
          paddingX: 1.5,
          paddingY: 0.75,
          overflowWrap: 'anywhere',
        }}
      >
        <Typography component="div" variant="body2">
          <strong>{title}</strong>
        </Typography>
        <Typography component="div" variant="body2">
          {dropped ? (
            <strong>
              <span aria-hidden>✕ </span>
              {action}
            </strong>
          ) : (
            action
          )}
        </Typography>
        {lines.map(([name, value]) => (
          <Typography key={name} component="div" variant="body2">
            {name}: {value}
          </Typography>
        ))}
      </Box>
    </Box>
  );
}

function HopBox({ hop }: { hop: Hop }) {
  return (
    <Box
      sx={{
        border: 1,
        borderColor: 'divider',
        borderRadius: 2,
        padding: 2,
        backgroundColor: 'background.paper',
        width: 340,
      }}
    >
      <Box sx={{ display: 'flex', justifyContent: 'space-between', gap: 1, marginBottom: 1 }}>
        <Typography component="h3" variant="subtitle1">
          <NodeLink name={hop.node} />
        </Typography>
        <span>{hop.role}</span>
      </Box>
      <Box component="ol" aria-label={`On ${hop.node}`} sx={{ padding: 0, margin: 0 }}>
        {hop.steps.map((step, number) => (
          <StepBox key={number} step={step} first={number === 0} />
        ))}
      </Box>
    </Box>
  );
}

export function Path({ hops, omitted }: { hops: Hop[]; omitted: number }) {
  if (hops.length === 0) return <Typography>No node has told anything of the packet.</Typography>;
  return (
    <>
      <Box
        component="ol"
        aria-label="Path of the packet"
        sx={{ display: 'flex', flexWrap: 'wrap', gap: 2, padding: 0, margin: 0 }}
      >
        {hops.map((hop, number) => (
          <Box
            key={number}
            component="li"
            sx={{ display: 'flex', alignItems: 'flex-start', gap: 2, listStyle: 'none' }}
          >
            <HopBox hop={hop} />
            {number < hops.length - 1 && (
              <Arrow text={hop.tunnel ? `tunnel to ${hop.tunnel}` : ''} />
            )}
          </Box>
        ))}
      </Box>
      {omitted > 0 && <Typography>and {omitted} more observations</Typography>}
    </>
  );
}
