using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>A GPU with small blocks, one process with one queue, and the vocabulary of its tests.</summary>
internal sealed class ComputeFixture
{
    public const ulong Page = GpuFixture.Page;
    public const ulong Va = 0x10_0000;

    public ComputeFixture(GpuOptions? options = null, ulong vramPages = 16, ulong systemPages = 16)
    {
        Gpu = new GpuFixture(
            (options ?? new GpuOptions()) with { CopyBlockBytes = 0x400, ComputeBlockBytes = 0x400 },
            vramPages,
            systemPages);
        (Process, Queue) = Open("process 1");
    }

    public GpuFixture Gpu { get; }

    public HostContext Host => Gpu.Host;

    public QueueEngine Engine => Gpu.Gpu.ComputeEngine;

    public GpuProcess Process { get; }

    public ComputeQueue Queue { get; }

    public (GpuProcess Process, ComputeQueue Queue) Open(string name, GpuPriority priority = GpuPriority.Normal) =>
        Gpu.Locked(() =>
        {
            GpuProcess process = Gpu.Gpu.OpenProcess(name);
            return (process, process.CreateQueue("queue", priority));
        });

    /// <summary>A cleared buffer that the process has opened.</summary>
    public (GpuBuffer Buffer, uint Handle) Create(
        string name, ulong pages = 1, GpuAccess access = GpuAccess.ReadWrite, GpuProcess? process = null)
    {
        GpuBuffer buffer = Gpu.Create(name, pages);
        return (buffer, Open(buffer, access, process));
    }

    public uint Open(GpuBuffer buffer, GpuAccess access = GpuAccess.ReadWrite, GpuProcess? process = null) =>
        Gpu.Locked(() =>
        {
            Assert.Equal(Errno.Success, (process ?? Process).TryOpen(buffer.Shared, access, out uint handle));
            return handle;
        });

    /// <summary>A buffer with an address in the process.</summary>
    public GpuBuffer Map(ulong address, ulong pages = 1, GpuAccess access = GpuAccess.ReadWrite)
    {
        (GpuBuffer buffer, uint handle) = Create($"at {address:x}", pages);
        Gpu.Locked(() => Assert.Equal(
            Errno.Success, Process.Memory.TryMap(address, handle, 0, pages * Page, access)));
        return buffer;
    }

    public SubmitOperation Submit(
        GpuCommandMode mode,
        IEnumerable<GpuCommand> commands,
        IReadOnlyList<Fence>? waits = null,
        ComputeQueue? queue = null)
    {
        GpuCommand[] all = [.. commands];
        byte[] bytes = new byte[all.Length * GpuCommand.SizeBytes];
        for (int i = 0; i < all.Length; i++)
        {
            all[i].Write(bytes.AsSpan(i * GpuCommand.SizeBytes));
        }

        return Gpu.Locked(() => SubmitOperation.Start(queue ?? Queue, new GpuSubmission(mode, bytes, waits)));
    }

    public SubmitOperation Paged(params GpuCommand[] commands) => Submit(GpuCommandMode.Paged, commands);

    public SubmitOperation Parsed(params GpuCommand[] commands) => Submit(GpuCommandMode.Parsed, commands);

    /// <summary>Both engines until neither has anything to do.</summary>
    public void Run()
    {
        while (Gpu.Run() + Engine.Drive(int.MaxValue) > 0)
        {
        }
    }

    /// <summary>Submits and runs to the end.</summary>
    public Errno Do(GpuCommandMode mode, params GpuCommand[] commands)
    {
        SubmitOperation operation = Submit(mode, commands);
        Run();
        Assert.True(operation.IsCompleted);
        if (operation.Error != Errno.Success)
        {
            return operation.Error;
        }

        Assert.True(operation.Fence!.HasEnded);
        return operation.Fence.Error;
    }

    public Span<T> Values<T>(GpuBuffer buffer)
        where T : struct => MemoryMarshal.Cast<byte, T>(Gpu.Bytes(buffer));
}
