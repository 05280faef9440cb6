using BenchmarkDotNet.Attributes;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Microbenchmarks;

/// <summary>Taking a buffer back from mapped importers, up to the proof; nobody is inside a gate.</summary>
public class RevokeBenchmarks
{
    private HostContext _host = null!;

    [Params(1, 8, 64)]
    public int Importers { get; set; }

    [GlobalSetup]
    public void Setup() => _host = new HostContext(TimeProvider.System);

    [Benchmark(Baseline = true, Description = "export+attach+map")]
    public SharedBuffer Lend() => Release(Prepare());

    [Benchmark(Description = "export+attach+map+revoke to the proof")]
    public RetirementProof Revoke()
    {
        BenchBuffer bench = Prepare();
        RetirementProof proof;
        using (_host.Enter())
        {
            proof = RevokeOperation.Start(bench.Buffer, new RevokePolicy()).Proof!;
        }

        Release(bench);
        return proof;
    }

    private BenchBuffer Prepare()
    {
        using (_host.Enter())
        {
            BenchBuffer bench = new(_host);
            bench.Buffer.Reservation.TryLock(bench.Ticket);
            for (int i = 0; i < Importers; i++)
            {
                BenchImporter importer = new(ImporterKind.Dynamic);
                bench.Attach(importer).MapLocked(bench.Ticket, DmaDirection.Bidirectional);
                importer.Publish();
            }

            bench.Buffer.Reservation.Unlock(bench.Ticket);
            return bench;
        }
    }

    private SharedBuffer Release(BenchBuffer bench)
    {
        using (_host.Enter())
        {
            bench.Buffer.Reservation.TryLock(bench.Ticket);
            foreach (Attachment attachment in bench.Buffer.Attachments.ToArray())
            {
                if (attachment.State != MappingState.Unmapped)
                {
                    attachment.UnmapLocked(bench.Ticket);
                }

                bench.Buffer.Detach(attachment);
            }

            bench.Buffer.Reservation.Unlock(bench.Ticket);
            bench.Buffer.Release();
            return bench.Buffer;
        }
    }
}
