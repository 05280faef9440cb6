using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Retirement;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Retirement;

/// <summary>
/// A device uses memory by key, gate and address while its owner takes it back and stops waiting: in every order,
/// nobody is inside memory that was given out, and no key works after the proof. Each defence is then taken away, and
/// must be missed.
/// </summary>
public class InvariantTests
{
    [Theory]
    [InlineData(ImporterKind.Dynamic)]
    [InlineData(ImporterKind.PinnedRevocable)]
    public void Memory_that_was_given_out_is_used_by_nobody_in_any_order(ImporterKind kind) =>
        Assert.True(Explorer.Exhaustive(_ => Build(kind, Faults.None)).Runs > 100);

    [Fact]
    public void A_pinned_importer_whose_callback_does_nothing_keeps_its_memory_in_quarantine() =>
        Assert.True(Explorer.Exhaustive(_ => Build(ImporterKind.PinnedRevocable, Faults.DoesNothing)).Runs > 1000);

    [Fact]
    public void An_unmap_that_does_not_wait_for_the_gate_is_caught() =>
        ExpectFound(Faults.UnmapsUndrained, CoreDefences.None, "inside");

    [Fact]
    public void A_key_that_is_alive_after_the_proof_is_caught() =>
        ExpectFound(Faults.KeepsKey, CoreDefences.None, "after the proof");

    [Fact]
    public void A_revoke_that_takes_a_pinned_importers_word_for_its_unmap_is_caught() =>
        ExpectFound(Faults.DoesNothing, CoreDefences.RevokeWaitsForUnmap, "after the proof");

    [Fact]
    public void A_time_out_that_gives_memory_out_is_caught() =>
        ExpectFound(Faults.None, CoreDefences.QuarantineWaitsForProof, "inside");

    private static void ExpectFound(Faults fault, CoreDefences without, string what)
    {
        InterleavingException found = Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => Build(ImporterKind.PinnedRevocable, fault, without)));
        Assert.Contains(what, found.Message, StringComparison.Ordinal);
    }

    private static Scenario Build(ImporterKind kind, Faults fault, CoreDefences without = CoreDefences.None)
    {
        BufferFixture f = new(StorageKind.Movable, without);
        HostContext host = f.Host;
        Device first = new(f, kind, fault), second = new(f, kind, Faults.None);
        Owner owner = new(host, f.Buffer, f.Clock);
        f.Dispose();
        return new Scenario(
            [
                new Actor("nic", first.Write(rounds: 2)),
                new Actor("second nic", second.Write(rounds: 1)),
                new Actor("owner", owner.TakeBack()),
                new Actor("clock", owner.StopWaiting()),
            ],
            () =>
            {
                if (owner.HasGivenOut && (first.IsInside || second.IsInside))
                {
                    throw new InvalidOperationException("somebody is inside memory that was given out");
                }

                if (owner.Revoke?.State == RevokeState.Retired && (first.IsKeyAlive || second.IsKeyAlive))
                {
                    throw new InvalidOperationException("a key is alive after the proof");
                }
            });
    }

    [Flags]
    private enum Faults
    {
        None = 0,
        UnmapsUndrained = 1,
        KeepsKey = 2,
        DoesNothing = 4,
    }

    private sealed class Owner(HostContext host, SharedBuffer buffer, VirtualClock clock)
    {
        private readonly Quarantine _quarantine = new(host);

        public RevokeOperation? Revoke { get; private set; }

        public bool HasGivenOut { get; private set; }

        public IEnumerable<Step> TakeBack()
        {
            yield return "take back";
            using (host.Enter())
            {
                Revoke = RevokeOperation.Start(buffer, new RevokePolicy());
                _quarantine.Hold(Revoke, "lent", buffer.SizeBytes, () => HasGivenOut = true);
            }
        }

        public IEnumerable<Step> StopWaiting()
        {
            yield return new("stop waiting", () => Revoke is not null);
            using (host.Enter())
            {
                clock.AdvanceTo(Revoke!.Deadline);
                Revoke.HandleTimeout(clock.Now);
            }
        }
    }

    /// <summary>A device with one key, its translation and its gate.</summary>
    private sealed class Device : IRevocableImporter
    {
        private const uint Key = 0x100;

        private readonly HostContext _host;
        private readonly Faults _fault;
        private readonly Timeline _timeline;
        private readonly Attachment _attachment;
        private Translation? _current;
        private Fence? _drain;

        public Device(BufferFixture f, ImporterKind kind, Faults fault)
        {
            (_host, Kind, _fault) = (f.Host, kind, fault);
            _timeline = new Timeline(f.Host, "nic");
            _attachment = f.AttachAndMap(this);
            _current = new Translation(_attachment.Addresses!, new InFlightGate(HandleDrained));
        }

        public string Name => "nic";

        public ImporterKind Kind { get; }

        public bool AllowPeerToPeer => true;

        public bool IsInside { get; private set; }

        public bool IsKeyAlive => _current is not null;

        public IEnumerable<Step> Write(int rounds)
        {
            for (int i = 0; i < rounds; i++)
            {
                yield return "look up the key";
                if (_current is not { } translation)
                {
                    yield break;
                }

                yield return "enter";
                if (!translation.Gate.TryEnter())
                {
                    yield break;
                }

                IsInside = true;
                yield return "write and leave";
                IsInside = false;
                translation.Gate.Exit();
            }
        }

        public InvalidateOutcome InvalidateMappings(Attachment attachment)
        {
            if (_fault == Faults.DoesNothing || attachment.State != MappingState.Invalidated)
            {
                return InvalidateOutcome.Done;
            }

            Translation translation = _current!;
            _current = _fault == Faults.KeepsKey ? _current : null;
            attachment.Evidence!.RecordKeyDead(Key);
            bool isDrained = translation.Gate.Close(out long inside);
            attachment.Evidence.RecordGateClosed(inside);
            if (isDrained || _fault == Faults.UnmapsUndrained)
            {
                attachment.Evidence.RecordDrained();
                attachment.UnmapInvalidated();
                return InvalidateOutcome.Done;
            }

            _drain = _timeline.CreateFence();
            return InvalidateOutcome.Draining(_drain);
        }

        private void HandleDrained()
        {
            using (_host.Enter())
            {
                if (_drain is { } drain)
                {
                    _attachment.Evidence!.RecordDrained();
                    _attachment.UnmapInvalidated();
                    drain.Signal();
                }
            }
        }
    }
}
