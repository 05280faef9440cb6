using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Buffers;

/// <summary>
/// Random histories of one buffer against what must always hold: pins, references, mappings and revokes add up after
/// every step, and at the end nothing is left.
/// </summary>
public class BufferModelTests
{
    private const int Steps = 150;

    private static readonly StorageKind[] s_storages = Enum.GetValues<StorageKind>();

    public static TheoryData<int> Seeds => [.. Enumerable.Range(1, 60)];

    [Theory]
    [MemberData(nameof(Seeds))]
    public void After_every_step_of_a_random_history_the_books_balance(int seed) => Live(seed, CoreDefences.None);

    [Fact]
    public void A_revoke_that_does_not_wait_for_the_unmaps_is_caught_by_some_history() =>
        Assert.Contains(Enumerable.Range(1, 60), seed => Record.Exception(
            () => Live(seed, CoreDefences.RevokeWaitsForUnmap)) is Xunit.Sdk.FalseException);

    private static void Live(int seed, CoreDefences without)
    {
        SplitMix64 random = new((ulong)seed);
        StorageKind storage = s_storages[seed % s_storages.Length];
        using BufferFixture f = new(storage, without);
        History history = new(f.Host, f.Buffer, f.Exporter, f.Clock, f.Work);
        for (int i = 0; i < Steps; i++)
        {
            history.Step(random);
            history.Check();
        }

        history.End();
        Assert.Equal((0, 0), (f.Exporter.PinCount, f.Buffer.ReferenceCount));
        Assert.Equal(1, f.Exporter.Calls.Count(c => c == "release"));
        Assert.Empty(BufferInfo.Collect(f.Host));
    }

    private sealed class History(
        HostContext host, SharedBuffer buffer, TestExporter exporter, VirtualClock clock, Timeline work)
    {
        private readonly List<(Attachment Attachment, TestImporter? Importer)> _users = [];
        private readonly List<CpuMapping> _mappings = [];
        private readonly List<CpuAccess> _accesses = [];
        private readonly Queue<Fence> _fences = new();
        private readonly List<RevokeOperation> _revokes = [];
        private readonly List<Memory<byte>> _vmaps = [];

        public void Step(SplitMix64 random)
        {
            int choice = random.Next(16);
            (Attachment Attachment, TestImporter? Importer) user =
                _users.Count == 0 ? default : _users[random.Next(_users.Count)];
            if (choice <= 1 || user.Attachment is null)
            {
                Attach(random.Next(3));
            }
            else if (choice <= 4)
            {
                Map(user.Attachment, user.Importer, inside: random.Next(2));
            }
            else
            {
                Do(choice, user.Attachment, user.Importer);
            }
        }

        public void Check()
        {
            Assert.Equal(_users.Sum(u => u.Attachment.PinCount), exporter.PinCount);
            Assert.Equal(1 + _users.Count + _mappings.Count, buffer.ReferenceCount);
            Assert.Equal(_mappings.Count + (_vmaps.Count > 0 ? 1 : 0), buffer.CpuMappings.Count);
            Assert.Equal((_vmaps.Count, _accesses.Count), (buffer.VmapCount, buffer.CpuAccessCount));
            Assert.Null(buffer.Reservation.Owner);
            foreach (RevokeOperation revoke in _revokes.Where(r => r.IsCurrent))
            {
                bool isUsed = _users.Exists(u => u.Attachment.State != MappingState.Unmapped)
                    || buffer.CpuMappings.Count > 0;
                Assert.False(isUsed && revoke.State == RevokeState.Retired, "somebody maps what was taken back");
                Assert.True(buffer.IsRevoked);
                if (revoke.Proof is { } proof)
                {
                    Assert.Empty(ProofVerifier.FindProblems(proof));
                }
            }
        }

        public void End()
        {
            foreach ((Attachment attachment, TestImporter? importer) in _users.ToArray())
            {
                Detach(attachment, importer);
            }

            while (_fences.Count > 0)
            {
                _fences.Dequeue().Signal();
            }

            _mappings.ForEach(m => m.End());
            _accesses.ForEach(a => a.End(out _));
            Locked(ticket => _vmaps.ForEach(m => buffer.VunmapLocked(ticket, m)));
            Assert.All(_revokes, r => Assert.Equal(RevokeState.Retired, r.State));
            buffer.Release();
        }

        private void Do(int choice, Attachment attachment, TestImporter? importer)
        {
            switch (choice)
            {
                case 5 or 6:
                    Detach(attachment, importer);
                    break;
                case 7:
                    Leave(importer);
                    break;
                case 8:
                    Locked(buffer.InvalidateMappings);
                    break;
                case 9:
                    AddFence();
                    break;
                case 10 when _fences.Count > 0:
                    _fences.Dequeue().Signal();
                    break;
                case 11:
                    Revoke();
                    break;
                case 12:
                    Locked(ticket => buffer.TryUnrevokeLocked(ticket));
                    break;
                case 13 when _mappings.Count > 0:
                    _mappings[0].EndOfDeadHolder(StopCause.ProcessDead, "pidfd");
                    _mappings.RemoveAt(0);
                    break;
                case 13 when buffer.TryMmap("process", 0, 1, out CpuMapping? mapping) == Errno.Success:
                    _mappings.Add(mapping!);
                    break;
                case 14:
                    UseByProcessor();
                    break;
                case 15:
                    attachment.EndOfDeadUser(StopCause.EngineReset, "reset");
                    Forget(importer);
                    break;
                default:
                    break;
            }
        }

        private void Attach(int kind)
        {
            TestImporter? importer = kind == 0
                ? null
                : new TestImporter(
                    new Timeline(host, "importer"), kind == 1 ? ImporterKind.Dynamic : ImporterKind.PinnedRevocable, 7);
            Errno errno = buffer.TryAttach(BufferFixture.Device, importer, out Attachment? attachment);
            Assert.Equal(
                buffer.Exporter.Storage == StorageKind.Revocable && importer is null ? Errno.EOPNOTSUPP : Errno.Success,
                errno);
            if (attachment is not null)
            {
                _users.Add((attachment, importer));
            }
        }

        private void Map(Attachment attachment, TestImporter? importer, int inside) => Locked(ticket =>
        {
            if (attachment.Kind == ImporterKind.PinnedRevocable && attachment.PinCount == 0)
            {
                attachment.PinLocked(ticket);
            }

            MapOutcome outcome = attachment.MapLocked(ticket, DmaDirection.Bidirectional);
            bool mustRefuse = buffer.IsRevoked || attachment.State != MappingState.Mapped;
            Assert.True(outcome.Kind == MapOutcomeKind.Mapped || mustRefuse || outcome.Errno == Errno.EBUSY);
            if (outcome.Kind == MapOutcomeKind.Mapped && importer is not null)
            {
                importer.Inside = inside;
            }
        });

        private void Detach(Attachment attachment, TestImporter? importer)
        {
            Leave(importer);
            Locked(ticket =>
            {
                if (attachment.State != MappingState.Unmapped)
                {
                    attachment.UnmapLocked(ticket);
                }

                while (attachment.PinCount > 0)
                {
                    attachment.UnpinLocked(ticket);
                }
            });
            buffer.Detach(attachment);
            _users.RemoveAll(u => ReferenceEquals(u.Attachment, attachment));
        }

        private static void Leave(TestImporter? importer)
        {
            if (importer?.Drain is { HasEnded: false })
            {
                importer.Leave();
            }
            else
            {
                Forget(importer);
            }
        }

        private static void Forget(TestImporter? importer)
        {
            if (importer is not null)
            {
                importer.Inside = 0;
            }
        }

        private void AddFence() => Locked(ticket =>
        {
            Fence fence = work.CreateFence();
            buffer.Reservation.ReserveFences(ticket, 1);
            buffer.Reservation.AddFence(ticket, fence, (ReservationUsage)(_fences.Count % 4));
            _fences.Enqueue(fence);
        });

        private void Revoke()
        {
            RevokeOperation revoke = RevokeOperation.Start(buffer, new RevokePolicy());
            _revokes.Add(revoke);
            if (_revokes.Count % 2 == 0)
            {
                clock.AdvanceTo(revoke.Deadline);
                revoke.HandleTimeout(host.Now);
            }
        }

        private void UseByProcessor()
        {
            if (_accesses.Count > 2)
            {
                _accesses[0].End(out _);
                _accesses.RemoveAt(0);
                Locked(ticket => _vmaps.ForEach(m => buffer.VunmapLocked(ticket, m)));
                _vmaps.Clear();
                return;
            }

            if (buffer.TryBeginCpuAccess(DmaDirection.Bidirectional, out CpuAccess? access) == Errno.Success)
            {
                _accesses.Add(access!);
            }

            Locked(ticket =>
            {
                if (buffer.TryVmapLocked(ticket, out Memory<byte> memory) == Errno.Success)
                {
                    _vmaps.Add(memory);
                }
            });
        }

        private void Locked(Action<AcquireTicket> action)
        {
            AcquireTicket ticket = new(host, "history");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            action(ticket);
            buffer.Reservation.Unlock(ticket);
        }
    }
}
