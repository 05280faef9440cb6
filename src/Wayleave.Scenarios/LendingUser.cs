using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>A device that writes 1, 2, ... to its byte of the buffer of a <see cref="Lending"/>.</summary>
internal sealed class LendingUser(Lending lending, SimulatedImporter importer, int offset)
{
    /// <summary>The last value that reached the buffer.</summary>
    public byte Written { get; private set; }

    public IEnumerable<Step> Write(int rounds, bool detaches = false) => importer.Use(rounds, Access, detaches);

    public void AddTo(ref StateHash hash)
    {
        hash.Add(Written);
        importer.AddTo(ref hash);
    }

    private void Access(DeviceAddress start)
    {
        DeviceAddress address = start + (ulong)offset;
        lending.RequireLent(importer.Name, address);
        World.Require(Errno.Success, importer.Port.TryWrite(address, 1, out Span<byte> bytes));
        bytes[0] = ++Written;
        if (lending.Story.IsTold)
        {
            lending.Story.Say($"writes {Written} at {address}");
        }
    }
}
