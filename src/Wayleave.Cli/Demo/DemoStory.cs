using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Demo;

/// <summary>Tells a demo to a person. With JSON wanted it is silent: the report says it all.</summary>
internal sealed class DemoStory(CommandContext context) : IDisposable
{
    private ProgressBar? _progress;

    public void Begin(WayleaveHost host, DemoPeer peer)
    {
        Tell(
            $"host A   process {Environment.ProcessId}, gpu0, rdma0 {host.Nics[0].Gid} UDP port "
            + $"{host.Nics[0].UdpPort}");
        Tell($"host B   process {peer.ProcessId}, gpu0, rdma0, control {peer.Client.HostName}");
    }

    public void Loaded(string? file, ulong bytes, string sha256) =>
        Tell(
            $"loaded   {ByteSize.Format(bytes)} of {file ?? "seeded data"} into the memory of A's gpu0, sha256 "
            + $"{sha256[..16]}...");

    /// <summary>The transfer starts now; what came before is not part of its rate.</summary>
    public void Sending(ulong bytes) => _progress = context.StartProgress("A gpu0 -> B gpu0", (long)bytes);

    public void Progress(ulong bytes) => _progress?.Report((long)bytes);

    public void Moved(string what, ulong completed, ulong total) =>
        Tell($"moved    B's buffer {what} under the transfer, at {100.0 * completed / total:F0} %");

    public void Transferred(bool matches, double bytesPerSecond, int moves, long faults, long retransmits)
    {
        _progress?.Dispose();
        _progress = null;
        Tell(
            $"sent     at {ByteSize.Format(bytesPerSecond)}/s through {moves} moves: {faults} faults, {retransmits} "
            + "packets sent again");
        Tell($"checked  sha256 in the memory of B's gpu0: {(matches ? "equal" : "DIFFERENT")}");
    }

    public void TakenBack(TakeBackReport region, ProofDocument proof)
    {
        if (context.IsJson)
        {
            return;
        }

        string kind = region.Region == "dynamic" ? "dynamic" : "pinned-revocable";
        Tell("");
        Tell(
            $"take back {ByteSize.Format(region.ReclaimedBytes)}, lent as a {kind} region under key "
            + $"0x{region.Rkey:x8}, while A writes to it:");
        ProofStory.Write(proof, context.Out);
        string refused = region.FirstRefusedPsn is { } psn
            ? $"first one refused: PSN {psn}, NAK 0x62" : "none was refused";
        Tell($"  last packet that landed: PSN {region.LastPlacedPsn}; {refused}; A saw {region.WriterStatus}");
        Tell($"  A came back {region.Attempts} times with the old key: {region.Refused} times refused");
        Tell(
            $"  the new owner marked {ByteSize.Format(region.OverlapBytes)} of it: {region.LateWriteBytes} bytes "
            + $"changed since, {region.LateReadBytes} could be read");
    }

    public void End(DemoReport report)
    {
        Tell("");
        Tell(report.Passed
            ? "nothing landed after the proofs, and nothing could be read"
            : "FAILED: " + string.Join(", ", Complaints(report)));
    }

    public void Dispose() => _progress?.Dispose();

    private static IEnumerable<string> Complaints(DemoReport report)
    {
        if (!report.Sha256Match)
        {
            yield return "the checksums differ";
        }

        if (report.LateWrites > 0)
        {
            yield return $"{report.LateWrites} bytes landed after the proof";
        }

        if (report.LateReads > 0)
        {
            yield return $"{report.LateReads} bytes of the new owner were read";
        }

        if (report.KeyReused)
        {
            yield return "a dead key was handed out again";
        }

        if (report.RevokeGrade != "Retired")
        {
            yield return $"a proof is only of grade {report.RevokeGrade}";
        }

        if (report.TakenBack.Any(r => r.Refused < r.Attempts) || report.BytesRejectedAfterRevoke == 0)
        {
            yield return "the old key was not refused every time";
        }

        if (report.TakenBack.Any(r => r.OverlapBytes < r.ReclaimedBytes))
        {
            yield return "the new owner got other memory, so nothing is shown";
        }
    }

    private void Tell(string line)
    {
        if (context.IsJson)
        {
            return;
        }

        // Both may end at the same terminal.
        if (_progress is { } bar)
        {
            bar.WriteAbove(() => context.Out.WriteLine(line));
        }
        else
        {
            context.Out.WriteLine(line);
        }
    }
}
