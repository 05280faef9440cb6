using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

/// <summary>A machine of some pages with one process. The host lock is held all the time.</summary>
internal ref struct SpaceFixture : IDisposable
{
    public const int Page = PageFrame.SizeBytes;

    private readonly HostContext.Scope _scope;

    public SpaceFixture()
        : this(64)
    {
    }

    public SpaceFixture(int pages, int movablePages = 0, long swapPages = 0, PinLimits? limits = null)
    {
        Host = new HostContext(Clock, Trace);
        _scope = Host.Enter();
        Memory = new MemorySystem(Host, swapPages: swapPages) { HugeOrder = 3 };
        if (pages > 0)
        {
            Memory.AddMemory(new byte[pages * Page]);
        }

        if (movablePages > 0)
        {
            Memory.AddMemory(new byte[movablePages * Page], zone: MemoryZoneKind.Movable);
        }

        Space = new AddressSpace(Memory, "process", limits);
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public MemorySystem Memory { get; }

    public AddressSpace Space { get; }

    public readonly Checker Checker => Host.Checker;

    public static AddressRange Pages(ulong start, int count) => new(start, (ulong)(count * Page));

    /// <summary>Runs an operation that has to end by itself.</summary>
    public readonly T Run<T>(T operation)
        where T : SpaceOperation
    {
        Host.AssertHeld();
        Assert.True(operation.Proceed(), $"waits at '{operation.Next}'");
        return operation;
    }

    /// <summary>As <see cref="Run"/>, and it must have gone well.</summary>
    public readonly T Done<T>(T operation)
        where T : SpaceOperation
    {
        Assert.Equal(Errno.Success, Run(operation).Errno);
        return operation;
    }

    public readonly AddressRange Map(
        int pages,
        SpaceProtection protection = SpaceProtection.ReadWrite,
        bool isShared = false,
        AddressSpace? space = null)
    {
        RegionRequest request = new()
        {
            LengthBytes = (ulong)(pages * Page),
            Protection = protection,
            IsShared = isShared,
        };
        return Done((space ?? Space).Map(request)).Addresses;
    }

    public readonly AddressRange MapFile(
        MemoryFile file, bool isShared, SpaceProtection protection = SpaceProtection.ReadWrite)
    {
        RegionRequest request = new()
        {
            LengthBytes = file.LengthBytes,
            Kind = RegionKind.File,
            File = file,
            IsShared = isShared,
            Protection = protection,
        };
        return Done(Space.Map(request)).Addresses;
    }

    public readonly Errno TryWrite(ulong address, byte[] bytes, AddressSpace? space = null) =>
        Run((space ?? Space).Write(address, bytes)).Errno;

    public readonly void Write(ulong address, byte[] bytes, AddressSpace? space = null) =>
        Assert.Equal(Errno.Success, TryWrite(address, bytes, space));

    public readonly Errno TryRead(ulong address, byte[] bytes, AddressSpace? space = null) =>
        Run((space ?? Space).Read(address, bytes)).Errno;

    public readonly byte[] Read(ulong address, int length, AddressSpace? space = null)
    {
        byte[] bytes = new byte[length];
        Assert.Equal(Errno.Success, TryRead(address, bytes, space));
        return bytes;
    }

    /// <summary>Fills pages with a number each, starting at <paramref name="first"/>.</summary>
    public readonly void Fill(AddressRange range, byte first, AddressSpace? space = null)
    {
        for (ulong at = range.Start; at < range.End; at += Page)
        {
            byte[] bytes = new byte[Page];
            Array.Fill(bytes, first++);
            Write(at, bytes, space);
        }
    }

    /// <summary>Whether every byte of every page is what <see cref="Fill"/> wrote.</summary>
    public readonly void ExpectFilled(AddressRange range, byte first, AddressSpace? space = null)
    {
        for (ulong at = range.Start; at < range.End; at += Page)
        {
            byte expected = first++;
            Assert.True(Read(at, Page, space).All(b => b == expected), $"page 0x{at:x} is not {expected}");
        }
    }

    /// <summary>What a look without faults sees of each page.</summary>
    public readonly IReadOnlyList<MirrorPage> Snapshot(AddressRange range, object? owner = null)
    {
        SimulatedMirror mirror = new(Space, range, "look");
        MirrorRange look =
            new(Space, mirror.Notifier, range) { Owner = owner, Sequence = mirror.Notifier.BeginRead(out _) };
        Done(look.Fault());
        mirror.Notifier.Remove();
        return look.Pages;
    }

    public readonly void ExpectViolation(ViolationKind kind) =>
        Assert.Equal(kind, Assert.Single(Checker.Violations).Kind);

    public readonly void ExpectNoViolation() => Assert.Empty(Checker.Violations);

    public readonly void Dispose() => _scope.Dispose();
}
